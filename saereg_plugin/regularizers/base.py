"""The configuration that all regularisers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from saereg_plugin.checks import FieldChecks
from saereg_plugin.component import Component
from saereg_plugin.config import config_from, fields_from
from saereg_plugin.errors import InputError
from saereg_plugin.mechanics.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class RegularizerConfig(FieldChecks):
    """
    Configuration of one regulariser: frozen, comparable, and plain in JSON.

    A subclass adds its fields and implements ``build``; ``register_regularizer`` names it.

    Args:
        coefficient: weight of the penalty, finite and 0 or more.
        schedule: how the coefficient changes over steps.
        label: name in the logs; None takes ``name`` (numbered if it occurs twice).
    """

    needs_all_pre_activations: ClassVar[bool] = True
    """Whether it reads the activations of latents that were not selected. False lets TopK
    kinds take a sparse step, in which ``Step.hidden_pre`` is empty and ``Step.active`` has
    the selected latents."""

    coefficient: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)
    label: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.schedule, Mapping):
            object.__setattr__(self, "schedule", fields_from(Schedule, self.schedule))
        self.require(
            "schedule", isinstance(self.schedule, Schedule), "a mapping of its fields"
        )
        self.require_number(
            "coefficient", lambda v: v >= 0, "a finite number, 0 or more"
        )
        label: Any = self.label
        if label is not None and not (isinstance(label, str) and label.isidentifier()):
            raise InputError(
                f"{self.name}: label is {label!r}; expected letters, digits and underscores."
            )

    def check(self, sae_cfg: Any) -> None:
        """
        Refuse an SAE configuration that this regulariser cannot act on.

        Raises:
            InputError: with the reason and what to change.
        """

    def build(self, sae_cfg: Any, *, label: str, seed: int) -> Component:
        """Make the module for an SAE with the configuration ``sae_cfg``."""
        raise NotImplementedError(f"{type(self).__name__} must implement build().")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON with ``name`` first."""
        return {"name": self.name, **dataclasses.asdict(self)}


def regularizer_from(
    value: RegularizerConfig | Mapping[str, Any] | str,
    known: Mapping[str, type[RegularizerConfig]],
) -> RegularizerConfig:
    """
    Return the configuration that ``value`` describes: see ``named.config_from``.

    A configuration need not be registered.
    """
    if isinstance(value, RegularizerConfig):
        return value
    return config_from(
        value,
        known,
        kind="regulariser",
        example='{"name": "weight_penalty", "coefficient": 1e-5}',
    )
