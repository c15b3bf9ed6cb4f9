"""One page about a results folder that opens offline."""
