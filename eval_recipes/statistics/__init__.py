"""Intervals over seeds and contexts, independent of SAEs."""
