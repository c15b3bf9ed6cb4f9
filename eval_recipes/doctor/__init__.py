"""The checks of ``saereg-bench doctor``: packages and this machine."""
