"""Sparse probing of labelled concepts."""
