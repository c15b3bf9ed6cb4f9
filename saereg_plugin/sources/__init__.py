"""Language models and texts."""
