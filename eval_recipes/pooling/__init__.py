"""Pooled SAEs next to fresh seeds and a control."""
