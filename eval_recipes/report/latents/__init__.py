"""Latents on the report page: choice, and data per SAE."""
