"""How consistent SAEs of one configuration are across seeds, and their geometry."""
