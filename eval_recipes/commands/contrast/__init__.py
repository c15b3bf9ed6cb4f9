"""Commands on two sets of texts."""
