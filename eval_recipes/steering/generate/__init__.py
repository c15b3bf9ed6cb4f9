"""Steered and unsteered texts."""
