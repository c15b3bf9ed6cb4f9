"""Fast products for sparse activations, with gradients."""

from saereg_plugin.kernels.aux_loss import AuxKLoss, DeadLatents
from saereg_plugin.kernels.encode import (
    ActiveLatents,
    NestedDecode,
    SelectedPreActivations,
)
from saereg_plugin.kernels.pre_activations import (
    PreActivations,
    select_batch_top_k,
    select_top_k,
)
from saereg_plugin.kernels.selected import Selected
from saereg_plugin.kernels.top_k import top_k, top_k_of_all

__all__ = [
    "ActiveLatents",
    "AuxKLoss",
    "DeadLatents",
    "NestedDecode",
    "PreActivations",
    "Selected",
    "SelectedPreActivations",
    "select_batch_top_k",
    "select_top_k",
    "top_k",
    "top_k_of_all",
]
