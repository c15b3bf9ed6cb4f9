"""Automated interpretability: explanations of latents, and their scores."""
