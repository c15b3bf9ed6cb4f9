"""Dated facts: their file, log-probabilities under steering, figures."""
