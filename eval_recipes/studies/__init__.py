"""Studies: the grid of a paper, trained and compared with its table."""
