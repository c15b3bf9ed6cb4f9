"""The fields that the regularised TopK architectures share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from typing_extensions import override

from saereg_plugin.architectures.config import (
    RegularizedConfigMixin,
    auto_field,
    parse_bool,
)
from saereg_plugin.checks import require_choice
from saereg_plugin.errors import InputError
from saereg_plugin.mechanics.auxk import AuxKScaling

SparseStep = Literal["auto", "always", "never"]

_LEAST_WIDTH_PER_K = 16
_LEAST_WIDTH_PER_K_AUTOCAST = 40
"""d_sae / k from which a sparse step is the faster one (docs: speed). Under autocast a dense
product is cheaper, so that later."""


@dataclass(kw_only=True)
class TopKFieldsMixin(RegularizedConfigMixin):
    """
    What the TopK kinds take besides the fields of every regularised architecture.

    Args:
        rescale_acts_by_decoder_norm: "auto" is False with unit norm, else SAELens'
            default, True.
        sparse_step: whether training computes only what selected latents need; the
            results are those of SAELens' dense step up to rounding. "auto" where it
            wins and nothing needs all pre-activations, "always" (an error where it is
            impossible), "never" (bit for bit SAELens' step).
        auxk_scaling: how the auxiliary loss of dead latents is scaled before
            ``aux_loss_coefficient``: "sae_lens" (SAELens' own), "openai",
            "dictionary_learning" or "sparsify" (see ``mechanics.auxk``).
    """

    rescale_acts_by_decoder_norm: bool = auto_field(parse_bool)
    # a built-in type: SAELens' command-line parser resolves names in another module
    sparse_step: str = "auto"
    auxk_scaling: str = "sae_lens"

    @override
    def validate(self) -> None:
        super().validate()
        require_choice("sparse_step", self.sparse_step, get_args(SparseStep))
        require_choice("auxk_scaling", self.auxk_scaling, get_args(AuxKScaling))
        unknown = self.normalize_activations in ("constant_norm_rescale", "layer_norm")
        if unknown and self.auxk_scaling != "sae_lens":
            raise InputError(
                f"auxk_scaling={self.auxk_scaling!r} cannot be used with normalize_activations="
                f"{self.normalize_activations!r}, for which the auxiliary loss is not defined (SAELens "
                "refuses it, too). Use normalize_activations='expected_average_only_in'."
            )
        obstacle = self.sparse_step_obstacle()
        if self.sparse_step == "always" and obstacle is not None:
            raise InputError(
                f"sparse_step='always' cannot be followed: {obstacle}. Use sparse_step='auto'."
            )

    def sparse_step_obstacle(self) -> str | None:
        """Return which field makes a sparse step impossible, if one does."""
        if self.normalize_activations in ("constant_norm_rescale", "layer_norm"):
            return f"normalize_activations={self.normalize_activations!r} acts inside the step"
        for label, regularizer in self.labelled_regularizers().items():
            if regularizer.needs_all_pre_activations:
                return (
                    f"the regulariser {label} needs the pre-activations of all latents"
                )
        return None

    def sparse_step_wins(self, k: float, *, autocast: bool) -> bool:
        """Whether the dictionary is wide enough for a sparse step with k to be faster."""
        least = _LEAST_WIDTH_PER_K_AUTOCAST if autocast else _LEAST_WIDTH_PER_K
        return self.d_sae >= least * k
