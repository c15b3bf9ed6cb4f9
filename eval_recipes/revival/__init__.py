"""Dead latents given back: gains next to those of a width-matched control."""
