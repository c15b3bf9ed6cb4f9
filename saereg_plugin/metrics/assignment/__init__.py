"""Exact one-to-one assignment of large dictionaries, with a proof of optimality."""
