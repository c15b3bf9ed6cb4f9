"""SAELens' architectures with regularisers and mechanics."""

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.config import RegularizedConfigMixin
from saereg_plugin.architectures.kinds import (
    RegularizedBatchTopKTrainingSAE,
    RegularizedBatchTopKTrainingSAEConfig,
    RegularizedGatedTrainingSAE,
    RegularizedGatedTrainingSAEConfig,
    RegularizedJumpReLUTrainingSAE,
    RegularizedJumpReLUTrainingSAEConfig,
    RegularizedMatryoshkaBatchTopKTrainingSAE,
    RegularizedMatryoshkaBatchTopKTrainingSAEConfig,
    RegularizedStandardTrainingSAE,
    RegularizedStandardTrainingSAEConfig,
    RegularizedTopKTrainingSAE,
    RegularizedTopKTrainingSAEConfig,
)

__all__ = [
    "RegularizedBatchTopKTrainingSAE",
    "RegularizedBatchTopKTrainingSAEConfig",
    "RegularizedConfigMixin",
    "RegularizedGatedTrainingSAE",
    "RegularizedGatedTrainingSAEConfig",
    "RegularizedJumpReLUTrainingSAE",
    "RegularizedJumpReLUTrainingSAEConfig",
    "RegularizedMatryoshkaBatchTopKTrainingSAE",
    "RegularizedMatryoshkaBatchTopKTrainingSAEConfig",
    "RegularizedMixin",
    "RegularizedStandardTrainingSAE",
    "RegularizedStandardTrainingSAEConfig",
    "RegularizedTopKTrainingSAE",
    "RegularizedTopKTrainingSAEConfig",
]
