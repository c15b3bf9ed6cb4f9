"""Intervals over seeds and contexts, without anything of SAEs."""
