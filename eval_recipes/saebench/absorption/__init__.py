"""Feature absorption of first letters (arXiv 2409.14507)."""
