"""Dead latents of a release: how they started, and what they do when given back."""
