"""Dead latents of a release: their start, and their revival."""
