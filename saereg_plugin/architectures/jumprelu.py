"""SAELens' jumprelu architecture with regularisers."""

from __future__ import annotations

from dataclasses import dataclass

from sae_lens import JumpReLUSAEConfig, JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from typing_extensions import override

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.config import RegularizedConfigMixin


@dataclass
class RegularizedJumpReLUTrainingSAEConfig(
    RegularizedConfigMixin, JumpReLUTrainingSAEConfig
):
    """
    SAELens' JumpReLUTrainingSAEConfig with regularisers; saved as SAELens' `jumprelu`.

    Further fields: see ``RegularizedConfigMixin``.
    """

    inference_config = JumpReLUSAEConfig

    @override
    @classmethod
    def architecture(cls) -> str:
        return "regularized_jumprelu"


class RegularizedJumpReLUTrainingSAE(RegularizedMixin, JumpReLUTrainingSAE):
    """SAELens' JumpReLUTrainingSAE with regularisers and mechanics."""

    cfg: RegularizedJumpReLUTrainingSAEConfig  # type: ignore[assignment]
