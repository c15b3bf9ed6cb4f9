"""The commands of ``saereg-bench``, one file each: they read arguments, call, print."""
