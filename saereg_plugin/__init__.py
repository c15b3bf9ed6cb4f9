"""Regularised sparse autoencoders under SAELens."""
