"""Fast products for sparse activations, with gradients."""

from saereg_plugin.kernels.inference import TopKEncoder as TopKEncoder
from saereg_plugin.kernels.inference import encode_top_k as encode_top_k
