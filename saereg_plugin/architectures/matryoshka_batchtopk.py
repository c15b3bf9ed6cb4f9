"""SAELens' matryoshka_batchtopk architecture with regularisers."""

from __future__ import annotations

from dataclasses import dataclass

from sae_lens import (
    JumpReLUSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from typing_extensions import override

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.sparse_step import SparseMatryoshkaMixin
from saereg_plugin.architectures.topk_fields import TopKFieldsMixin


@dataclass
class RegularizedMatryoshkaBatchTopKTrainingSAEConfig(
    TopKFieldsMixin, MatryoshkaBatchTopKTrainingSAEConfig
):
    """
    SAELens' MatryoshkaBatchTopKTrainingSAEConfig with regularisers; saved as SAELens' `jumprelu`.

    Further fields: see ``TopKFieldsMixin`` and ``RegularizedConfigMixin``.
    """

    inference_config = JumpReLUSAEConfig

    @override
    @classmethod
    def architecture(cls) -> str:
        return "regularized_matryoshka_batchtopk"


class RegularizedMatryoshkaBatchTopKTrainingSAE(
    RegularizedMixin, SparseMatryoshkaMixin, MatryoshkaBatchTopKTrainingSAE
):
    """SAELens' MatryoshkaBatchTopKTrainingSAE with regularisers and mechanics."""

    cfg: RegularizedMatryoshkaBatchTopKTrainingSAEConfig  # type: ignore[assignment]
