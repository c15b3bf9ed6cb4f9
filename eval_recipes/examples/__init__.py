"""Latents with what they fire on: densities, examples, logits."""
