"""The command ``saereg-bench study``, one function per study."""
