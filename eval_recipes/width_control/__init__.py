"""Regularised groups against width-matched controls."""
