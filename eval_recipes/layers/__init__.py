"""Layers whose latents separate two sets of texts, and task vectors."""
