"""The steering study (arXiv 2603.04198)."""
