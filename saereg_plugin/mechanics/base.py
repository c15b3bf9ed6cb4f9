"""What every training mechanic's configuration has."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from saereg_plugin.component import Component
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.named import config_from


@dataclass(frozen=True, kw_only=True)
class MechanicConfig:
    """
    Configuration of one training mechanic: frozen, comparable, and plain in JSON.

    A subclass sets ``name``, adds its fields, and implements ``build``.
    """

    name: ClassVar[str]
    order: ClassVar[int] = 0
    """Mechanics act in the order of this number; see ``build_components``."""

    def check(self, sae_cfg: Any) -> None:
        """
        Refuse an SAE configuration that this mechanic cannot act on.

        Raises:
            InputError: with the reason and what to change.
        """

    def build(self, sae_cfg: Any, *, seed: int) -> Component:
        """Make the module, labelled ``name``, for an SAE with the configuration ``sae_cfg``."""
        raise NotImplementedError(f"{type(self).__name__} must implement build().")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON with ``name`` first."""
        return {"name": self.name, **dataclasses.asdict(self)}

    def require(self, name: str, holds: bool, expected: str) -> None:
        """Refuse the value of the field ``name`` unless ``holds``."""
        if not holds:
            raise InputError(
                f"{self.name}: {name} is {getattr(self, name)!r}; expected {expected}."
            )

    def require_choice(self, name: str, choices: tuple[str, ...]) -> None:
        """Refuse a value of the field ``name`` outside ``choices``."""
        value = getattr(self, name)
        if value not in choices:
            raise InputError(
                f"{self.name}: {name} is {value!r}. {suggest(str(value), choices)}"
            )

    def require_count(self, name: str, least: int = 1) -> None:
        """Refuse a value of the field ``name`` that is no integer of at least ``least``."""
        value = getattr(self, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        self.require(name, whole and value >= least, f"an integer, {least} or more")

    def require_number(
        self, name: str, holds: Callable[[float], bool], expected: str
    ) -> None:
        """Refuse a value of the field ``name`` that is not finite or for which not ``holds``."""
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        self.require(name, number and math.isfinite(value) and holds(value), expected)


def mechanic_from(
    value: MechanicConfig | Mapping[str, Any] | str,
    known: Mapping[str, type[MechanicConfig]],
) -> MechanicConfig:
    """
    Return the configuration that ``value`` describes: see ``named.config_from``.

    A configuration need not be registered.
    """
    if isinstance(value, MechanicConfig):
        return value
    return config_from(
        value,
        known,
        kind="mechanic",
        example='{"name": "gradient_clipping", "max_norm": 0.1}',
    )
