"""The four fields of a metric with an interval, and how they are filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from sae_bench.evals.base_eval_output import DEFAULT_DISPLAY

from eval_recipes.statistics.seeds import Interval


def value(title: str, description: str, *, display: bool = False) -> Any:
    """Return the field of a metric; None where it is not defined."""
    extra = DEFAULT_DISPLAY if display else None
    return Field(title=title, description=description, json_schema_extra=extra)


def low(title: str) -> Any:
    """Return the field of the interval's lower end."""
    return Field(
        title=f"{title} (95 % Interval, Low)",
        description="Lower end of the 95 % interval; null where there is none",
    )


def high(title: str) -> Any:
    """Return the field of the interval's upper end."""
    return Field(
        title=f"{title} (95 % Interval, High)",
        description="Upper end of the 95 % interval; null where there is none",
    )


def count(title: str) -> Any:
    """Return the field of the number of things averaged."""
    return Field(
        title=f"{title} (n)",
        description="Latents, contexts, seeds or seed pairs behind the figure",
    )


def flat(intervals: Mapping[str, Interval | None]) -> dict[str, Any]:
    """
    Spread each interval over the four fields of its metric.

    >>> flat({"shared": Interval(0.7, 0.6, 0.8, 200)})
    {'shared': 0.7, 'shared_ci_low': 0.6, 'shared_ci_high': 0.8, 'shared_n': 200}
    """
    fields: dict[str, Any] = {}
    for name, interval in intervals.items():
        fields[name] = interval.value if interval else None
        fields[f"{name}_ci_low"] = interval.low if interval else None
        fields[f"{name}_ci_high"] = interval.high if interval else None
        fields[f"{name}_n"] = interval.n if interval else 0
    return fields
