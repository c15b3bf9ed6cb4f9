"""Latents on the report page: the choice of latents, and data of each SAE."""
