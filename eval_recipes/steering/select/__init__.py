"""Latents to steer with."""
