"""
Regularised sparse autoencoders under SAELens.

Importing this package registers every architecture with SAELens, once, and every
regulariser and mechanic that is imported here.
"""

from saereg_plugin.activations.arrays import ArraySource as ArraySource
from saereg_plugin.activations.cache import open_cache as open_cache
from saereg_plugin.activations.cache import write_cache as write_cache
from saereg_plugin.activations.edits.changes import AddDirection as AddDirection
from saereg_plugin.activations.edits.changes import AddLatents as AddLatents
from saereg_plugin.activations.edits.changes import ScaleLatents as ScaleLatents
from saereg_plugin.activations.edits.changes import zero_latents as zero_latents
from saereg_plugin.activations.edits.context import edit as edit
from saereg_plugin.activations.edits.magnitudes import (
    mean_difference as mean_difference,
)
from saereg_plugin.activations.edits.magnitudes import (
    typical_magnitudes as typical_magnitudes,
)
from saereg_plugin.activations.module import ModuleSource as ModuleSource
from saereg_plugin.activations.opening import open_source as open_source
from saereg_plugin.architectures.base import RegularizedMixin as RegularizedMixin
from saereg_plugin.architectures.config import (
    RegularizedConfigMixin as RegularizedConfigMixin,
)
from saereg_plugin.architectures.config import (
    RescaledConfigMixin as RescaledConfigMixin,
)
from saereg_plugin.architectures.kinds import KINDS
from saereg_plugin.architectures.kinds import (
    RegularizedBatchTopKTrainingSAE as RegularizedBatchTopKTrainingSAE,
)
from saereg_plugin.architectures.kinds import (
    RegularizedBatchTopKTrainingSAEConfig as RegularizedBatchTopKTrainingSAEConfig,
)
from saereg_plugin.architectures.kinds import (
    RegularizedGatedTrainingSAE as RegularizedGatedTrainingSAE,
)
from saereg_plugin.architectures.kinds import (
    RegularizedGatedTrainingSAEConfig as RegularizedGatedTrainingSAEConfig,
)
from saereg_plugin.architectures.kinds import (
    RegularizedJumpReLUTrainingSAE as RegularizedJumpReLUTrainingSAE,
)
from saereg_plugin.architectures.kinds import (
    RegularizedJumpReLUTrainingSAEConfig as RegularizedJumpReLUTrainingSAEConfig,
)
from saereg_plugin.architectures.kinds import (
    RegularizedMatryoshkaBatchTopKTrainingSAE as RegularizedMatryoshkaBatchTopKTrainingSAE,
)
from saereg_plugin.architectures.kinds import (
    RegularizedMatryoshkaBatchTopKTrainingSAEConfig as RegularizedMatryoshkaBatchTopKTrainingSAEConfig,
)
from saereg_plugin.architectures.kinds import (
    RegularizedStandardTrainingSAE as RegularizedStandardTrainingSAE,
)
from saereg_plugin.architectures.kinds import (
    RegularizedStandardTrainingSAEConfig as RegularizedStandardTrainingSAEConfig,
)
from saereg_plugin.architectures.kinds import (
    RegularizedTopKTrainingSAE as RegularizedTopKTrainingSAE,
)
from saereg_plugin.architectures.kinds import (
    RegularizedTopKTrainingSAEConfig as RegularizedTopKTrainingSAEConfig,
)
from saereg_plugin.check_run import check as check
from saereg_plugin.checkpoints import regularize_checkpoint as regularize_checkpoint
from saereg_plugin.component import Component as Component
from saereg_plugin.component import Step as Step
from saereg_plugin.config import MechanicConfig as MechanicConfig
from saereg_plugin.config import RegularizerConfig as RegularizerConfig
from saereg_plugin.config import RunSettings as RunSettings
from saereg_plugin.config import Schedule as Schedule
from saereg_plugin.errors import InputError as InputError
from saereg_plugin.finetuning import FineTune as FineTune
from saereg_plugin.finetuning import finetune as finetune
from saereg_plugin.mechanics.ema import WeightEma as WeightEma
from saereg_plugin.mechanics.gradient_clipping import (
    GradientClipping as GradientClipping,
)
from saereg_plugin.mechanics.k_annealing import KAnnealing as KAnnealing
from saereg_plugin.mechanics.optimizer_steps import register_hooks
from saereg_plugin.mechanics.rate_scaling import (
    ActivationRateScaling as ActivationRateScaling,
)
from saereg_plugin.mechanics.resampling import (
    DeadLatentResampling as DeadLatentResampling,
)
from saereg_plugin.mechanics.weight_decay import WeightDecay as WeightDecay
from saereg_plugin.registry import register_architecture as register_architecture
from saereg_plugin.registry import register_mechanic as register_mechanic
from saereg_plugin.registry import register_regularizer as register_regularizer
from saereg_plugin.regularizers.frequency_weighted_l1 import (
    FrequencyWeightedL1 as FrequencyWeightedL1,
)
from saereg_plugin.regularizers.l1_l2_ratio import L1L2Ratio as L1L2Ratio
from saereg_plugin.regularizers.mono_loss import MonoLoss as MonoLoss
from saereg_plugin.regularizers.multi_topk import MultiTopK as MultiTopK
from saereg_plugin.regularizers.mutual_features import MutualFeatures as MutualFeatures
from saereg_plugin.regularizers.mutual_features import link_saes as link_saes
from saereg_plugin.regularizers.off_support import OffSupportL1 as OffSupportL1
from saereg_plugin.regularizers.orthogonality import Orthogonality as Orthogonality
from saereg_plugin.regularizers.temporal_difference import (
    TemporalDifference as TemporalDifference,
)
from saereg_plugin.regularizers.vocabulary_anchor import (
    VocabularyAnchor as VocabularyAnchor,
)
from saereg_plugin.regularizers.weight_penalty import WeightPenalty as WeightPenalty
from saereg_plugin.releases.opening import open_release as open_release
from saereg_plugin.releases.opening import register_release as register_release
from saereg_plugin.releases.push import push as push
from saereg_plugin.releases.release import Release as Release
from saereg_plugin.sources import corpora as corpora
from saereg_plugin.sources import models as models
from saereg_plugin.sources.hook_shapes import d_in_of as d_in_of
from saereg_plugin.sweeps import SweepConfig as SweepConfig
from saereg_plugin.sweeps import SweepResult as SweepResult
from saereg_plugin.sweeps import load_records as load_records
from saereg_plugin.sweeps import train as train

for _classes in KINDS:
    register_architecture(*_classes)
register_hooks()
models.register_names()
