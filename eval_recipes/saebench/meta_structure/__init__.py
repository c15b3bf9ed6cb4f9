"""Compression of the decoder by a smaller SAE."""
