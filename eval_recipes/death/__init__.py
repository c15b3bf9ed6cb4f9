"""The evaluation death: latents that never fire, and why."""
