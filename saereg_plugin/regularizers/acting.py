"""Whether a regulariser, as a configuration writes it, does anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
    >>> acts({"name": "orthogonality"})  # its coefficient is .25 unless said otherwise
    True
    """
    from saereg_plugin.registry import REGULARIZERS  # it imports this package

    if not isinstance(regularizer, Mapping):
        return False
    known = REGULARIZERS.get(str(regularizer.get("name")))
    default = 0.0 if known is None else known.coefficient
    schedule = regularizer.get("schedule")
    final = _final(schedule) if isinstance(schedule, Mapping) else 0
    return bool(regularizer.get("coefficient", default) or final)


def _final(schedule: Mapping[str, Any]) -> Any:
    """Return what a schedule anneals to; 0 if it does not anneal."""
    anneals = schedule.get("anneal", "none") != "none"
    return schedule.get("final_coefficient", 0) if anneals else 0
