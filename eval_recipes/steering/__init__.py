"""Steering with SAE latents: texts, strengths, judges and fluency (arXiv 2603.04198)."""
