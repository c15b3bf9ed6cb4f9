"""One SAE that starts from the unique latents of several seeds."""
