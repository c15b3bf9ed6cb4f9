"""
The tables of this package: regularisers, mechanics and architectures by name.

The tables are empty until the modules of what they hold are imported, and this module imports
none of these. Registering an architecture also enters it in SAELens' public registry, under
which its runners and loaders find it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from sae_lens import TrainingSAE, TrainingSAEConfig, register_sae_training_class
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

from saereg_plugin.errors import InputError, suggest

if TYPE_CHECKING:
    from saereg_plugin.config import MechanicConfig, RegularizerConfig

R = TypeVar("R", bound="RegularizerConfig")
M = TypeVar("M", bound="MechanicConfig")
T = TypeVar("T", bound=Any)

REGULARIZERS: dict[str, type[RegularizerConfig]] = {}
MECHANICS: dict[str, type[MechanicConfig]] = {}
ARCHITECTURES: dict[str, tuple[type[TrainingSAE[Any]], type[TrainingSAEConfig]]] = {}


def register_regularizer(name: str) -> Callable[[type[R]], type[R]]:
    """
    Make a regulariser's configuration class known by a name (a decorator).

    The name becomes the class' ``name``.

    Raises:
        InputError: if another class has that name, or it is no text.
    """
    return _register("regularizer", "regulariser", REGULARIZERS, name)


def register_mechanic(name: str) -> Callable[[type[M]], type[M]]:
    """Make a mechanic's configuration class known by a name, as ``register_regularizer``."""
    return _register("mechanic", "mechanic", MECHANICS, name)


def _register(
    kind: str, noun: str, table: dict[str, Any], name: object
) -> Callable[[T], T]:
    # 0.1.0 took the class itself
    if not isinstance(name, str):
        raise InputError(
            f"register_{kind} was given {name!r}; expected a name. Write for example "
            f"@register_{kind}('my_{kind}')."
        )

    def register(cls: T) -> T:
        known = table.get(name)
        if known is not None and known is not cls:
            raise InputError(
                f"A {noun} named {name!r} is registered already ({known.__qualname__}); "
                "choose another name."
            )
        cls.name = name
        table[name] = cls
        return cls

    return register


def acts(regularizer: Any) -> bool:
    """
    Return whether a regulariser has any weight at any step.

    A coefficient of 0 is no penalty, unless a schedule anneals it to something else. So
    the group of a grid that has the coefficient 0 counts as unregularised everywhere.

    Args:
        regularizer: its fields as a file has them; anything but a mapping does not act.

    >>> acts({"name": "weight_penalty", "coefficient": 0.0})
    False
    >>> schedule = {"anneal": "linear", "anneal_steps": 9, "final_coefficient": 1e-3}
    >>> acts({"name": "weight_penalty", "schedule": schedule})
    True
    """
    if not isinstance(regularizer, Mapping):
        return False
    known = REGULARIZERS.get(str(regularizer.get("name")))
    # without a coefficient in the file it is the class' own, which for some is not 0
    default = 0.0 if known is None else known.coefficient
    schedule = regularizer.get("schedule")
    final = _final(schedule) if isinstance(schedule, Mapping) else 0
    return bool(regularizer.get("coefficient", default) or final)


def _final(schedule: Mapping[str, Any]) -> Any:
    """Return what a schedule anneals to; 0 if it does not anneal."""
    anneals = schedule.get("anneal", "none") != "none"
    return schedule.get("final_coefficient", 0) if anneals else 0


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
