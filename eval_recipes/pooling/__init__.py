"""Pooled SAEs next to fresh seeds and a control of the same width."""
