"""Cyclic distillation of a core of latents (DMSAE, arXiv 2512.24975)."""
