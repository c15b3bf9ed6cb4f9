"""Pooled SAEs next to fresh seeds and an equally wide control."""
