"""SAELens' standard architecture with regularisers."""

from __future__ import annotations

from dataclasses import dataclass

from sae_lens import StandardSAEConfig, StandardTrainingSAE, StandardTrainingSAEConfig
from typing_extensions import override

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.config import RegularizedConfigMixin


@dataclass
class RegularizedStandardTrainingSAEConfig(
    RegularizedConfigMixin, StandardTrainingSAEConfig
):
    """
    SAELens' StandardTrainingSAEConfig with regularisers; saved as SAELens' `standard`.

    Further fields: see ``RegularizedConfigMixin``.
    """

    inference_config = StandardSAEConfig

    @override
    @classmethod
    def architecture(cls) -> str:
        return "regularized_standard"


class RegularizedStandardTrainingSAE(RegularizedMixin, StandardTrainingSAE):
    """SAELens' StandardTrainingSAE with regularisers and mechanics."""

    cfg: RegularizedStandardTrainingSAEConfig  # type: ignore[assignment]
