"""
Regularised sparse autoencoders under SAELens.

The names below are imported when they are used: ``import saereg_plugin`` takes no time. Every
architecture is registered with SAELens, once, as soon as both packages are imported, and with
it every regulariser and mechanic of the modules below.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from saereg_plugin.architectures.registration import register_in_time

if TYPE_CHECKING:
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
    from saereg_plugin.mechanics.frozen_core import FrozenCore as FrozenCore
    from saereg_plugin.mechanics.gradient_clipping import (
        GradientClipping as GradientClipping,
    )
    from saereg_plugin.mechanics.k_annealing import KAnnealing as KAnnealing
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
    from saereg_plugin.regularizers.mutual_features import (
        MutualFeatures as MutualFeatures,
    )
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
    from saereg_plugin.releases.records import load_records as load_records
    from saereg_plugin.releases.release import Release as Release
    from saereg_plugin.sources import corpora as corpora
    from saereg_plugin.sources import models as models
    from saereg_plugin.sources.hook_shapes import d_in_of as d_in_of
    from saereg_plugin.sweeps import SweepConfig as SweepConfig
    from saereg_plugin.sweeps import SweepResult as SweepResult
    from saereg_plugin.sweeps import train as train

_PLACES = {
    "ArraySource": "activations.arrays",
    "open_cache": "activations.cache",
    "write_cache": "activations.cache",
    "AddDirection": "activations.edits.changes",
    "AddLatents": "activations.edits.changes",
    "ScaleLatents": "activations.edits.changes",
    "zero_latents": "activations.edits.changes",
    "edit": "activations.edits.context",
    "mean_difference": "activations.edits.magnitudes",
    "typical_magnitudes": "activations.edits.magnitudes",
    "ModuleSource": "activations.module",
    "open_source": "activations.opening",
    "RegularizedMixin": "architectures.base",
    "RegularizedConfigMixin": "architectures.config",
    "RescaledConfigMixin": "architectures.config",
    "RegularizedBatchTopKTrainingSAE": "architectures.kinds",
    "RegularizedBatchTopKTrainingSAEConfig": "architectures.kinds",
    "RegularizedGatedTrainingSAE": "architectures.kinds",
    "RegularizedGatedTrainingSAEConfig": "architectures.kinds",
    "RegularizedJumpReLUTrainingSAE": "architectures.kinds",
    "RegularizedJumpReLUTrainingSAEConfig": "architectures.kinds",
    "RegularizedMatryoshkaBatchTopKTrainingSAE": "architectures.kinds",
    "RegularizedMatryoshkaBatchTopKTrainingSAEConfig": "architectures.kinds",
    "RegularizedStandardTrainingSAE": "architectures.kinds",
    "RegularizedStandardTrainingSAEConfig": "architectures.kinds",
    "RegularizedTopKTrainingSAE": "architectures.kinds",
    "RegularizedTopKTrainingSAEConfig": "architectures.kinds",
    "check": "check_run",
    "regularize_checkpoint": "checkpoints",
    "Component": "component",
    "Step": "component",
    "MechanicConfig": "config",
    "RegularizerConfig": "config",
    "RunSettings": "config",
    "Schedule": "config",
    "InputError": "errors",
    "FineTune": "finetuning",
    "finetune": "finetuning",
    "WeightEma": "mechanics.ema",
    "FrozenCore": "mechanics.frozen_core",
    "GradientClipping": "mechanics.gradient_clipping",
    "KAnnealing": "mechanics.k_annealing",
    "ActivationRateScaling": "mechanics.rate_scaling",
    "DeadLatentResampling": "mechanics.resampling",
    "WeightDecay": "mechanics.weight_decay",
    "register_architecture": "registry",
    "register_mechanic": "registry",
    "register_regularizer": "registry",
    "FrequencyWeightedL1": "regularizers.frequency_weighted_l1",
    "L1L2Ratio": "regularizers.l1_l2_ratio",
    "MonoLoss": "regularizers.mono_loss",
    "MultiTopK": "regularizers.multi_topk",
    "MutualFeatures": "regularizers.mutual_features",
    "link_saes": "regularizers.mutual_features",
    "OffSupportL1": "regularizers.off_support",
    "Orthogonality": "regularizers.orthogonality",
    "TemporalDifference": "regularizers.temporal_difference",
    "VocabularyAnchor": "regularizers.vocabulary_anchor",
    "WeightPenalty": "regularizers.weight_penalty",
    "open_release": "releases.opening",
    "register_release": "releases.opening",
    "push": "releases.push",
    "load_records": "releases.records",
    "Release": "releases.release",
    "corpora": "sources",
    "models": "sources",
    "d_in_of": "sources.hook_shapes",
    "SweepConfig": "sweeps",
    "SweepResult": "sweeps",
    "train": "sweeps",
}
"""Module of each public name."""

__all__ = list(_PLACES)  # pyright: ignore[reportUnsupportedDunderAll]

if not TYPE_CHECKING:
    # to a type checker this would make every name a public one

    def __getattr__(name: str) -> Any:
        """Import a public name or a module of this package."""
        if name not in _PLACES:
            if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
                return import_module(f"{__name__}.{name}")
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = __import__(f"{__name__}.{_PLACES[name]}", fromlist=[name])
        return globals().setdefault(name, getattr(module, name))


def __dir__() -> list[str]:
    """List the public names, also those that were not imported yet."""
    return sorted({*globals(), *_PLACES})


register_in_time([f"{__name__}.{place}" for place in dict.fromkeys(_PLACES.values())])
