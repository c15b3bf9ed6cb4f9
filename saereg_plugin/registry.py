"""
The tables of this package: regularisers, mechanics and architectures by name.

The tables are empty until the modules of what they hold are imported, and this module imports
none of these. Installed packages add to a table by an entry point, see ``Table``. Registering
an architecture also enters it in SAELens' public registry, under which its runners and loaders
find it.

Readers of results need the defaults of regularisers, and no torch: those of this package are
also stored, in ``DEFAULTS``. ``saereg-bench schemas --write`` makes the file.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from saereg_plugin.errors import InputError, suggest

if TYPE_CHECKING:
    from sae_lens import TrainingSAE, TrainingSAEConfig

    from saereg_plugin.config import MechanicConfig, RegularizerConfig

R = TypeVar("R", bound="RegularizerConfig")
M = TypeVar("M", bound="MechanicConfig")
T = TypeVar("T", bound=Any)
V = TypeVar("V")

_log = logging.getLogger(__name__)


class Table(MutableMapping[str, V]):
    """
    Entries by name, with those of installed packages.

    A package's entry point in the group ``saereg_plugin.<kind>`` has the name of an entry and
    names a module, or a class in it, whose import registers the entry. The entry points are
    loaded, after what this package has, when the names are listed or an unknown name is looked
    up. A package that cannot be loaded is left out with a warning.

    Args:
        kind: "regularizers", "mechanics" or "architectures".
    """

    def __init__(self, kind: str):
        self.group = f"saereg_plugin.{kind}"
        self._entries: dict[str, V] = {}
        self._left_out: dict[str, str] = {}
        self._is_loaded = False

    def registered(self, name: str) -> V | None:
        """Return an entry whose module was imported, or None; imports nothing."""
        return self._entries.get(name)

    def installed(self, name: str) -> V | None:
        """Return an entry that was registered or is another package's, or None."""
        if name not in self._entries:
            self._load_packages()
        return self._entries.get(name)

    def load(self) -> None:
        """Import what this package has, and the entry points of installed packages, once."""
        # whereupon this package registers its own, see its docstring
        importlib.import_module("sae_lens")
        self._load_packages()

    def _load_packages(self) -> None:
        if self._is_loaded:
            return
        # first, as the packages read the table
        self._is_loaded = True
        for point in entry_points(group=self.group):
            reason = _load(point)
            if not reason and point.name not in self._entries:
                reason = f"it registers no {point.name!r}"
            if reason:
                package = point.dist.name if point.dist is not None else "unknown"
                _log.warning(
                    "Entry point %s of package %r is left out: %s.",
                    f"{self.group}:{point.name} = {point.value}",
                    package,
                    reason,
                )
                self._left_out[point.name] = f"package {package!r}: {reason}"

    def left_out(self, name: str) -> bool:
        """Return whether an installed package has the name and could not be loaded."""
        self.load()
        return name in self._left_out

    def suggest(self, name: str) -> str:
        """Say why the package that has an unknown name was left out, or name the nearest."""
        known = list(self)
        if name in self._left_out:
            return f"It is of {self._left_out[name]}. Correct and install that package again."
        return suggest(name, known)

    def __getitem__(self, name: str) -> V:
        if name not in self._entries:
            self.load()
        return self._entries[name]

    def __setitem__(self, name: str, value: V) -> None:
        self._entries[name] = value

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self.load()
        return iter(list(self._entries))

    def __len__(self) -> int:
        self.load()
        return len(self._entries)


def _load(point: EntryPoint) -> str:
    """Import an entry point; return in one line why that fails, or ""."""
    try:
        point.load()
    # another package's import can raise anything, and must not end this command
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


REGULARIZERS: Table[type[RegularizerConfig]] = Table("regularizers")
MECHANICS: Table[type[MechanicConfig]] = Table("mechanics")
ARCHITECTURES: Table[tuple[type[TrainingSAE[Any]], type[TrainingSAEConfig]]] = Table(
    "architectures"
)


def import_own(module: str) -> None:
    """
    Import a module or a file that registers a regulariser, mechanic or architecture.

    Args:
        module: the name of a module, which may be in the current folder, or the path of a
            ``.py`` file.

    Raises:
        InputError: if there is no such module, or its import fails.
    """
    path = Path(module)
    place = path.resolve().parent if path.suffix == ".py" else Path.cwd()
    if str(place) not in sys.path:
        # last, so that nothing there replaces an installed module
        sys.path.append(str(place))
    try:
        if path.suffix == ".py":
            _import_file(path.resolve())
        else:
            importlib.import_module(module)
    # the user's code can raise anything
    except Exception as error:
        raise InputError(
            f"--import {module!r} fails ({type(error).__name__}: {error}); expected a module or "
            f"a .py file that can be imported from {os.getcwd()!r}. Correct it."
        ) from error


def _import_file(path: Path) -> None:
    """Import a file under its path as the name, so that no other module has it."""
    name = str(path)
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


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
    kind: str, noun: str, table: Table[Any], name: object
) -> Callable[[T], T]:
    # 0.1.0 took the class itself
    if not isinstance(name, str):
        raise InputError(
            f"register_{kind} was given {name!r}; expected a name. Write for example "
            f"@register_{kind}('my_{kind}')."
        )

    def register(cls: T) -> T:
        known = table.registered(name)
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
    # without a coefficient in the file it is the class' own, which for some is not 0
    default = regularizer_defaults(str(regularizer.get("name"))).get("coefficient", 0.0)
    schedule = regularizer.get("schedule")
    final = _final(schedule) if isinstance(schedule, Mapping) else 0
    return bool(regularizer.get("coefficient", default) or final)


def decays(mechanic: Any) -> bool:
    """Return whether a mechanic, a mapping of fields, is ``weight_decay`` with an effect."""
    return (
        isinstance(mechanic, Mapping)
        and mechanic.get("name") == "weight_decay"
        # its default decay is not 0
        and bool(mechanic.get("decay", True))
    )


def _final(schedule: Mapping[str, Any]) -> Any:
    """Return what a schedule anneals to; 0 if it does not anneal."""
    anneals = schedule.get("anneal", "none") != "none"
    return schedule.get("final_coefficient", 0) if anneals else 0


DEFAULTS = Path(__file__).parent / "regularizers" / "defaults.json"
"""Defaults of the fields of this package's regularisers, by name."""


def regularizer_defaults(name: str) -> Mapping[str, Any]:
    """
    Return the defaults of a regulariser's fields as a saved configuration has them.

    They are empty for an unknown name. Those of this package are read from ``DEFAULTS``.

    >>> regularizer_defaults("orthogonality")["coefficient"]
    0.25
    """
    stored = _stored_defaults()
    if name in stored:
        return stored[name]
    cls = REGULARIZERS.installed(name)
    return {} if cls is None else _defaults(cls)


def defaults_text() -> str:
    """Return the content of ``DEFAULTS``, from the classes; others' are left out."""
    package = __name__.partition(".")[0]
    found = {
        name: _defaults(cls)
        for name, cls in sorted(REGULARIZERS.items())
        if cls.__module__.partition(".")[0] == package
    }
    return json.dumps(found, indent=1) + "\n"


@cache
def _stored_defaults() -> Mapping[str, Mapping[str, Any]]:
    return json.loads(DEFAULTS.read_text(encoding="utf-8"))


def _defaults(cls: type[RegularizerConfig]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        value: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        if value is not dataclasses.MISSING:
            nested = getattr(value, "__dataclass_fields__", None) is not None
            found[field.name] = dataclasses.asdict(value) if nested else value
    return found


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
    from sae_lens import register_sae_training_class
    from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

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
    from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

    if architecture not in SAE_TRAINING_CLASS_REGISTRY:
        ARCHITECTURES.load()
    if architecture not in SAE_TRAINING_CLASS_REGISTRY:
        raise InputError(
            f"Unknown architecture {architecture!r}. "
            f"{_suggest_architecture(architecture, SAE_TRAINING_CLASS_REGISTRY)}"
        )
    return SAE_TRAINING_CLASS_REGISTRY[architecture]


def _suggest_architecture(name: str, known: Iterable[str]) -> str:
    # SAELens' registry has its own architectures as well as ours
    if ARCHITECTURES.left_out(name):
        return ARCHITECTURES.suggest(name)
    return suggest(name, known)
