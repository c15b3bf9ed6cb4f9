"""The fields that the regularised TopK architectures share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from typing_extensions import override

from saereg_plugin.architectures.config import (
    RegularizedConfigMixin,
    auto_field,
    parse_bool,
)
from saereg_plugin.errors import InputError

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
    """

    rescale_acts_by_decoder_norm: bool = auto_field(parse_bool)
    # a built-in type: SAELens' command-line parser resolves names in another module
    sparse_step: str = "auto"

    @override
    def validate(self) -> None:
        super().validate()
        self._require_choice("sparse_step", get_args(SparseStep))
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

    def sparse_step_wins(self, *, autocast: bool) -> bool:
        """Whether the dictionary is wide enough for a sparse step to be faster."""
        k: Any = getattr(self, "k")
        least = _LEAST_WIDTH_PER_K_AUTOCAST if autocast else _LEAST_WIDTH_PER_K
        return self.d_sae >= least * k
