from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.batchtopk import (
    RegularizedBatchTopKTrainingSAE,
    RegularizedBatchTopKTrainingSAEConfig,
)
from saereg_plugin.architectures.config import RegularizedConfigMixin
from saereg_plugin.architectures.gated import (
    RegularizedGatedTrainingSAE,
    RegularizedGatedTrainingSAEConfig,
)
from saereg_plugin.architectures.jumprelu import (
    RegularizedJumpReLUTrainingSAE,
    RegularizedJumpReLUTrainingSAEConfig,
)
from saereg_plugin.architectures.matryoshka_batchtopk import (
    RegularizedMatryoshkaBatchTopKTrainingSAE,
    RegularizedMatryoshkaBatchTopKTrainingSAEConfig,
)
from saereg_plugin.architectures.standard import (
    RegularizedStandardTrainingSAE,
    RegularizedStandardTrainingSAEConfig,
)
from saereg_plugin.architectures.kinds import (
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
