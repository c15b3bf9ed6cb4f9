"""Statistics of steering."""
