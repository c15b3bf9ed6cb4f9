"""The configuration that all training mechanics share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from saereg_plugin.checks import FieldChecks
from saereg_plugin.component import Component
from saereg_plugin.config import config_from


@dataclass(frozen=True, kw_only=True)
class MechanicConfig(FieldChecks):
    """
    Configuration of one training mechanic: frozen, comparable, and plain in JSON.

    A subclass adds its fields and implements ``build``; ``register_mechanic`` names it.
    """

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
