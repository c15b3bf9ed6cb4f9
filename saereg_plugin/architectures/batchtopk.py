"""SAELens' batchtopk architecture with regularisers."""

from __future__ import annotations

from dataclasses import dataclass

from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, JumpReLUSAEConfig
from typing_extensions import override

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.config import (
    RegularizedConfigMixin,
    auto_field,
    parse_bool,
)


@dataclass
class RegularizedBatchTopKTrainingSAEConfig(
    RegularizedConfigMixin, BatchTopKTrainingSAEConfig
):
    """
    SAELens' BatchTopKTrainingSAEConfig with regularisers; saved as SAELens' `jumprelu`.

    Further fields: see ``RegularizedConfigMixin``.
    """

    inference_config = JumpReLUSAEConfig

    rescale_acts_by_decoder_norm: bool = auto_field(parse_bool)
    """"auto": False with unit norm, else SAELens' default, True."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "regularized_batchtopk"


class RegularizedBatchTopKTrainingSAE(RegularizedMixin, BatchTopKTrainingSAE):
    """SAELens' BatchTopKTrainingSAE with regularisers and mechanics."""

    cfg: RegularizedBatchTopKTrainingSAEConfig  # type: ignore[assignment]
