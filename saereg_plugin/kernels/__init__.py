"""Fast products for sparse activations, with gradients."""
