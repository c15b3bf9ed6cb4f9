"""
The papers' settings as configurations.

Each function returns a ``Preset``. ``.sae()`` is a SAELens training configuration and
``.sweep_fields()`` the fields of a ``SweepConfig``. ``.stated`` names the paper's own fields,
and ``.chosen`` ours with their reasons.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from saereg_plugin.presets.activations import freq_sae as freq_sae
from saereg_plugin.presets.activations import l1_l2_ratio_topk as l1_l2_ratio_topk
from saereg_plugin.presets.activations import off_support_topk as off_support_topk
from saereg_plugin.presets.activations import temporal_sae as temporal_sae
from saereg_plugin.presets.base import PaperLoss as PaperLoss
from saereg_plugin.presets.base import Preset as Preset
from saereg_plugin.presets.base import Run as Run
from saereg_plugin.presets.base import loss_factor as loss_factor
from saereg_plugin.presets.base import sae_lens_coefficient as sae_lens_coefficient
from saereg_plugin.presets.decoder_rows import mutual_feature as mutual_feature
from saereg_plugin.presets.decoder_rows import ort_sae as ort_sae
from saereg_plugin.presets.decoder_rows import vasae as vasae
from saereg_plugin.presets.weight_regularization import (
    weight_regularized_mnist as weight_regularized_mnist,
)
from saereg_plugin.presets.weight_regularization import (
    weight_regularized_topk as weight_regularized_topk,
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
