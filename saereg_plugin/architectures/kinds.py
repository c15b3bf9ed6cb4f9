"""SAELens' architectures with regularisers."""

from __future__ import annotations

from dataclasses import dataclass

from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from typing_extensions import override

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.config import (
    RegularizedConfigMixin,
)
from saereg_plugin.architectures.sparse_step import (
    SparseBatchTopKMixin,
    SparseMatryoshkaMixin,
    SparseStepMixin,
)
from saereg_plugin.architectures.topk_fields import TopKFieldsMixin


@dataclass
class RegularizedTopKTrainingSAEConfig(TopKFieldsMixin, TopKTrainingSAEConfig):
    """
    SAELens' TopKTrainingSAEConfig with regularisers; saved as SAELens' `topk`.

    Further fields: see ``TopKFieldsMixin`` and ``RegularizedConfigMixin``.
    """

    inference_config = TopKSAEConfig

    @override
    @classmethod
    def architecture(cls) -> str:
        return "regularized_topk"


class RegularizedTopKTrainingSAE(RegularizedMixin, SparseStepMixin, TopKTrainingSAE):
    """SAELens' TopKTrainingSAE with regularisers and mechanics."""

    cfg: RegularizedTopKTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class RegularizedBatchTopKTrainingSAEConfig(
    TopKFieldsMixin, BatchTopKTrainingSAEConfig
):
    """
    SAELens' BatchTopKTrainingSAEConfig with regularisers; saved as SAELens' `jumprelu`.

    Further fields: see ``TopKFieldsMixin`` and ``RegularizedConfigMixin``.
    """

    inference_config = JumpReLUSAEConfig

    @override
    @classmethod
    def architecture(cls) -> str:
        return "regularized_batchtopk"


class RegularizedBatchTopKTrainingSAE(
    RegularizedMixin, SparseBatchTopKMixin, BatchTopKTrainingSAE
):
    """SAELens' BatchTopKTrainingSAE with regularisers and mechanics."""

    cfg: RegularizedBatchTopKTrainingSAEConfig  # type: ignore[assignment]


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
