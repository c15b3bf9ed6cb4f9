"""SAELens' topk architecture with regularisers."""

from __future__ import annotations

from dataclasses import dataclass

from sae_lens import TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from typing_extensions import override

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.config import (
    RegularizedConfigMixin,
    auto_field,
    parse_bool,
)


@dataclass
class RegularizedTopKTrainingSAEConfig(RegularizedConfigMixin, TopKTrainingSAEConfig):
    """
    SAELens' TopKTrainingSAEConfig with regularisers; saved as SAELens' `topk`.

    Further fields: see ``RegularizedConfigMixin``.
    """

    inference_config = TopKSAEConfig

    rescale_acts_by_decoder_norm: bool = auto_field(parse_bool)
    """"auto": False with unit norm, else SAELens' default, True."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "regularized_topk"


class RegularizedTopKTrainingSAE(RegularizedMixin, TopKTrainingSAE):
    """SAELens' TopKTrainingSAE with regularisers and mechanics."""

    cfg: RegularizedTopKTrainingSAEConfig  # type: ignore[assignment]
