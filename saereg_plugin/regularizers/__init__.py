"""Regularisers of SAEs, one file each; ``saereg_plugin`` imports and so registers them."""
