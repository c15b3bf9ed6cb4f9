"""SAELens' gated architecture with regularisers."""

from __future__ import annotations

from dataclasses import dataclass

from sae_lens import GatedSAEConfig, GatedTrainingSAE, GatedTrainingSAEConfig
from typing_extensions import override

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.config import RegularizedConfigMixin


@dataclass
class RegularizedGatedTrainingSAEConfig(RegularizedConfigMixin, GatedTrainingSAEConfig):
    """
    SAELens' GatedTrainingSAEConfig with regularisers; saved as SAELens' `gated`.

    Further fields: see ``RegularizedConfigMixin``.
    """

    inference_config = GatedSAEConfig

    @override
    @classmethod
    def architecture(cls) -> str:
        return "regularized_gated"


class RegularizedGatedTrainingSAE(RegularizedMixin, GatedTrainingSAE):
    """SAELens' GatedTrainingSAE with regularisers and mechanics."""

    cfg: RegularizedGatedTrainingSAEConfig  # type: ignore[assignment]
