"""Training mechanics of SAEs."""
