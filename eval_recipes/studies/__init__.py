"""Studies: one package a paper, each runs its grid and sets its table beside the published one."""
