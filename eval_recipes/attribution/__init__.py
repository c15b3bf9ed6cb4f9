"""The evaluation attribution: latents that the next-token loss depends on."""
