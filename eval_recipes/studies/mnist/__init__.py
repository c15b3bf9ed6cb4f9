"""The MNIST study of arXiv 2603.04198."""
