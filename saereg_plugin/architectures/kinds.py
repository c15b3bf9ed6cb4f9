"""SAELens' architectures with regularisers and mechanics."""

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

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.config import RegularizedConfigMixin, TopKFieldsMixin
from saereg_plugin.architectures.sparse_step import (
    SparseBatchTopKMixin,
    SparseMatryoshkaMixin,
    SparseStepMixin,
)


@dataclass
class RegularizedTopKTrainingSAEConfig(TopKFieldsMixin, TopKTrainingSAEConfig):
    """TopKTrainingSAEConfig, to which ``TopKFieldsMixin`` adds fields."""

    inference_config = TopKSAEConfig


class RegularizedTopKTrainingSAE(RegularizedMixin, SparseStepMixin, TopKTrainingSAE):
    """TopKTrainingSAE with regularisers; saved as SAELens' ``topk``."""

    cfg: RegularizedTopKTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class RegularizedBatchTopKTrainingSAEConfig(
    TopKFieldsMixin, BatchTopKTrainingSAEConfig
):
    """BatchTopKTrainingSAEConfig, to which ``TopKFieldsMixin`` adds fields."""

    inference_config = JumpReLUSAEConfig


class RegularizedBatchTopKTrainingSAE(
    RegularizedMixin, SparseBatchTopKMixin, BatchTopKTrainingSAE
):
    """BatchTopKTrainingSAE with regularisers; saved as SAELens' ``jumprelu``."""

    cfg: RegularizedBatchTopKTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class RegularizedMatryoshkaBatchTopKTrainingSAEConfig(
    TopKFieldsMixin, MatryoshkaBatchTopKTrainingSAEConfig
):
    """MatryoshkaBatchTopKTrainingSAEConfig, to which ``TopKFieldsMixin`` adds fields."""

    inference_config = JumpReLUSAEConfig


class RegularizedMatryoshkaBatchTopKTrainingSAE(
    RegularizedMixin, SparseMatryoshkaMixin, MatryoshkaBatchTopKTrainingSAE
):
    """MatryoshkaBatchTopKTrainingSAE with regularisers; saved as SAELens' ``jumprelu``."""

    cfg: RegularizedMatryoshkaBatchTopKTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class RegularizedStandardTrainingSAEConfig(
    RegularizedConfigMixin, StandardTrainingSAEConfig
):
    """StandardTrainingSAEConfig, to which ``RegularizedConfigMixin`` adds fields."""

    inference_config = StandardSAEConfig


class RegularizedStandardTrainingSAE(RegularizedMixin, StandardTrainingSAE):
    """StandardTrainingSAE with regularisers; saved as SAELens' ``standard``."""

    cfg: RegularizedStandardTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class RegularizedJumpReLUTrainingSAEConfig(
    RegularizedConfigMixin, JumpReLUTrainingSAEConfig
):
    """JumpReLUTrainingSAEConfig, to which ``RegularizedConfigMixin`` adds fields."""

    inference_config = JumpReLUSAEConfig


class RegularizedJumpReLUTrainingSAE(RegularizedMixin, JumpReLUTrainingSAE):
    """JumpReLUTrainingSAE with regularisers; saved as SAELens' ``jumprelu``."""

    cfg: RegularizedJumpReLUTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class RegularizedGatedTrainingSAEConfig(RegularizedConfigMixin, GatedTrainingSAEConfig):
    """GatedTrainingSAEConfig, to which ``RegularizedConfigMixin`` adds fields."""

    inference_config = GatedSAEConfig


class RegularizedGatedTrainingSAE(RegularizedMixin, GatedTrainingSAE):
    """GatedTrainingSAE with regularisers; saved as SAELens' ``gated``."""

    cfg: RegularizedGatedTrainingSAEConfig  # type: ignore[assignment]


KINDS = (
    (RegularizedStandardTrainingSAE, RegularizedStandardTrainingSAEConfig),
    (RegularizedTopKTrainingSAE, RegularizedTopKTrainingSAEConfig),
    (RegularizedBatchTopKTrainingSAE, RegularizedBatchTopKTrainingSAEConfig),
    (
        RegularizedMatryoshkaBatchTopKTrainingSAE,
        RegularizedMatryoshkaBatchTopKTrainingSAEConfig,
    ),
    (RegularizedJumpReLUTrainingSAE, RegularizedJumpReLUTrainingSAEConfig),
    (RegularizedGatedTrainingSAE, RegularizedGatedTrainingSAEConfig),
)
"""Training classes with their configurations, as they are registered."""
