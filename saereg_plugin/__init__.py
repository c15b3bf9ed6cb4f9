"""
Regularised sparse autoencoders under SAELens.

Importing this package registers every architecture with SAELens, once.
"""

from saereg_plugin.architectures import (
    RegularizedBatchTopKTrainingSAE,
    RegularizedBatchTopKTrainingSAEConfig,
    RegularizedConfigMixin,
    RegularizedGatedTrainingSAE,
    RegularizedGatedTrainingSAEConfig,
    RegularizedJumpReLUTrainingSAE,
    RegularizedJumpReLUTrainingSAEConfig,
    RegularizedMatryoshkaBatchTopKTrainingSAE,
    RegularizedMatryoshkaBatchTopKTrainingSAEConfig,
    RegularizedMixin,
    RegularizedStandardTrainingSAE,
    RegularizedStandardTrainingSAEConfig,
    RegularizedTopKTrainingSAE,
    RegularizedTopKTrainingSAEConfig,
)
from saereg_plugin.check_run import check
from saereg_plugin.checkpoints import regularize_checkpoint
from saereg_plugin.component import Component, Step
from saereg_plugin.errors import InputError
from saereg_plugin.mechanics import (
    ActivationRateScaling,
    DeadLatentResampling,
    GradientClipping,
    KAnnealing,
    MechanicConfig,
    WeightDecay,
)
from saereg_plugin.mechanics.optimizer_steps import register_hooks
from saereg_plugin.mechanics.schedules import Schedule
from saereg_plugin.registry import (
    register_architecture,
    register_mechanic,
    register_regularizer,
)
from saereg_plugin.regularizers import (
    FrequencyWeightedL1,
    L1L2Ratio,
    MutualFeatures,
    OffSupportL1,
    Orthogonality,
    RegularizerConfig,
    TemporalDifference,
    VocabularyAnchor,
    WeightPenalty,
)
from saereg_plugin.regularizers.linking import link_saes
from saereg_plugin.releases.sae_lens import register_release
from saereg_plugin.sources import corpora, models

for _sae_class, _config_class in (
    (RegularizedStandardTrainingSAE, RegularizedStandardTrainingSAEConfig),
    (RegularizedTopKTrainingSAE, RegularizedTopKTrainingSAEConfig),
    (RegularizedBatchTopKTrainingSAE, RegularizedBatchTopKTrainingSAEConfig),
    (
        RegularizedMatryoshkaBatchTopKTrainingSAE,
        RegularizedMatryoshkaBatchTopKTrainingSAEConfig,
    ),
    (RegularizedJumpReLUTrainingSAE, RegularizedJumpReLUTrainingSAEConfig),
    (RegularizedGatedTrainingSAE, RegularizedGatedTrainingSAEConfig),
):
    register_architecture(_sae_class, _config_class)
register_hooks()
models.register_names()

__all__ = [
    "ActivationRateScaling",
    "Component",
    "DeadLatentResampling",
    "FrequencyWeightedL1",
    "GradientClipping",
    "InputError",
    "KAnnealing",
    "L1L2Ratio",
    "MechanicConfig",
    "MutualFeatures",
    "OffSupportL1",
    "Orthogonality",
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
    "RegularizerConfig",
    "Schedule",
    "Step",
    "TemporalDifference",
    "VocabularyAnchor",
    "WeightDecay",
    "WeightPenalty",
    "check",
    "corpora",
    "link_saes",
    "models",
    "register_architecture",
    "register_mechanic",
    "register_regularizer",
    "register_release",
    "regularize_checkpoint",
]
