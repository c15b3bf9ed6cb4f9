"""Figures of studies and commands, from their JSON files."""
