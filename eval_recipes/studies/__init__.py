"""Studies: a paper's grid, trained and set beside its table; one command, `saereg-bench study`."""
