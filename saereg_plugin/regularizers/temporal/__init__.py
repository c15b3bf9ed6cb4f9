"""Differences between the codes of neighbouring tokens."""
