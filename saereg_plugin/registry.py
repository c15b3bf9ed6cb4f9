"""
The tables of this package: regularisers, mechanics and architectures by name.

Registering an architecture also enters it in SAELens' public registry, under
which its runners and loaders find it.
"""

from __future__ import annotations

from typing import Any, TypeVar

from sae_lens import TrainingSAE, TrainingSAEConfig, register_sae_training_class
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

from saereg_plugin.errors import InputError, suggest
from saereg_plugin.mechanics.base import MechanicConfig
from saereg_plugin.mechanics.gradient_clipping import GradientClipping
from saereg_plugin.mechanics.gradient_scaling import ActivationRateScaling
from saereg_plugin.mechanics.k_annealing import KAnnealing
from saereg_plugin.mechanics.resampling import DeadLatentResampling
from saereg_plugin.mechanics.weight_decay import WeightDecay
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

R = TypeVar("R", bound=RegularizerConfig)
M = TypeVar("M", bound=MechanicConfig)
T = TypeVar("T")

REGULARIZERS: dict[str, type[RegularizerConfig]] = {
    cls.name: cls
    for cls in (
        WeightPenalty,
        OffSupportL1,
        L1L2Ratio,
        FrequencyWeightedL1,
        TemporalDifference,
        VocabularyAnchor,
        MutualFeatures,
        Orthogonality,
    )
}
MECHANICS: dict[str, type[MechanicConfig]] = {
    cls.name: cls
    for cls in (
        KAnnealing,
        ActivationRateScaling,
        GradientClipping,
        WeightDecay,
        DeadLatentResampling,
    )
}
ARCHITECTURES: dict[str, tuple[type[TrainingSAE[Any]], type[TrainingSAEConfig]]] = {}


def register_regularizer(cls: type[R]) -> type[R]:
    """
    Make a regulariser's configuration class known by its ``name`` (a decorator).

    Raises:
        InputError: if another class has that name.
    """
    return _register(cls, cls.name, REGULARIZERS, "regulariser")


def register_mechanic(cls: type[M]) -> type[M]:
    """
    Make a mechanic's configuration class known by its ``name`` (a decorator).

    Raises:
        InputError: if another class has that name.
    """
    return _register(cls, cls.name, MECHANICS, "mechanic")


def _register(cls: T, name: str, table: dict[str, Any], kind: str) -> T:
    known = table.get(name)
    if known is not None and known is not cls:
        raise InputError(
            f"A {kind} named {name!r} is registered already ({known.__qualname__}); "
            "choose another name."
        )
    table[name] = cls
    return cls


def register_architecture(
    sae_class: type[TrainingSAE[Any]], config_class: type[TrainingSAEConfig]
) -> None:
    """
    Register a training class with SAELens under its configuration's architecture.

    An entry of an earlier import of this package is replaced; one from elsewhere
    is refused.

    Raises:
        InputError: if SAELens knows another class by that name.
    """
    name = config_class.architecture()
    known = SAE_TRAINING_CLASS_REGISTRY.get(name)
    if known is not None:
        if known[0].__module__ != sae_class.__module__:
            raise InputError(
                f"SAELens has an architecture named {name!r} already ({known[0].__module__})."
            )
        SAE_TRAINING_CLASS_REGISTRY.pop(name)
    register_sae_training_class(name, sae_class, config_class)
    ARCHITECTURES[name] = (sae_class, config_class)


def training_classes(
    architecture: str,
) -> tuple[type[TrainingSAE[Any]], type[TrainingSAEConfig]]:
    """
    Return SAELens' training class and configuration class of an architecture.

    Raises:
        InputError: if SAELens knows no such architecture; names the nearest.
    """
    if architecture not in SAE_TRAINING_CLASS_REGISTRY:
        raise InputError(
            f"Unknown architecture {architecture!r}. "
            f"{suggest(architecture, SAE_TRAINING_CLASS_REGISTRY)}"
        )
    return SAE_TRAINING_CLASS_REGISTRY[architecture]
