"""Distilled cores next to their controls."""
