"""One page about a results folder that opens offline."""

LATENTS = 300
"""Latents of an SAE that are shown with their examples, by default."""
