"""Latents that separate two sets of inputs of any kind."""
