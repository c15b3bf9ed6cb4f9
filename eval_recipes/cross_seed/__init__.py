"""Consistency of SAEs across seeds, and their geometry."""
