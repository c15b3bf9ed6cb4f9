"""
The papers' settings as configurations.

Each function returns a ``Preset``. ``.sae()`` is a SAELens training configuration and
``.sweep_fields()`` the fields of a ``SweepConfig``. ``.stated`` names the paper's own fields,
and ``.chosen`` ours with their reasons.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from saereg_plugin.presets.activations import (
    freq_sae,
    l1_l2_ratio_topk,
    off_support_topk,
    temporal_sae,
)
from saereg_plugin.presets.base import (
    PaperLoss,
    Preset,
    Run,
    loss_factor,
    sae_lens_coefficient,
)
from saereg_plugin.presets.decoder_rows import mutual_feature, ort_sae, vasae
from saereg_plugin.presets.weight_regularization import (
    weight_regularized_mnist,
    weight_regularized_topk,
)

PRESETS: Mapping[str, Callable[..., Preset]] = MappingProxyType(
    {
        make.__name__: make
        for make in (
            weight_regularized_topk,
            weight_regularized_mnist,
            off_support_topk,
            l1_l2_ratio_topk,
            freq_sae,
            temporal_sae,
            vasae,
            mutual_feature,
            ort_sae,
        )
    }
)
"""Every preset by name."""

__all__ = [
    "PRESETS",
    "PaperLoss",
    "Preset",
    "Run",
    "freq_sae",
    "l1_l2_ratio_topk",
    "loss_factor",
    "mutual_feature",
    "off_support_topk",
    "ort_sae",
    "sae_lens_coefficient",
    "temporal_sae",
    "vasae",
    "weight_regularized_mnist",
    "weight_regularized_topk",
]
