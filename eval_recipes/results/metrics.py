"""Metrics with intervals: one row each, four fields in a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import DEFAULT_DISPLAY
from typing_extensions import dataclass_transform

from eval_recipes.statistics.seeds import Interval

_BEHIND = "Latents, contexts, seeds or seed pairs behind the figure"

T = TypeVar("T")


class Metric(NamedTuple):
    """One metric of an output class: four of its fields."""

    title: str
    description: str
    display: bool
    nullable: bool
    of: str

    def fields(self, name: str) -> dict[str, tuple[Any, Any]]:
        """Return annotation and default of each field, by its name."""
        end = float | None
        return {
            name: (
                end if self.nullable else float,
                value(self.title, self.description, display=self.display),
            ),
            f"{name}_ci_low": (end, _end(self.title, "Low", "Lower")),
            f"{name}_ci_high": (end, _end(self.title, "High", "Upper")),
            f"{name}_n": (int, value(f"{self.title} (n)", self.of)),
        }


def metric(
    title: str,
    description: str,
    *,
    display: bool = False,
    nullable: bool = True,
    of: str = _BEHIND,
) -> Any:
    """
    Return a metric with an interval, as an attribute of a ``metric_class``.

    Args:
        title: as people read it.
        description: what it is.
        display: whether SAEBench's tables show it by themselves.
        nullable: whether the value may be missing; its interval always may.
        of: what its number counts.
    """
    return Metric(title, description, display, nullable, of)


def value(title: str, description: str, *, display: bool = False) -> Any:
    """Return the field of a single value."""
    extra = DEFAULT_DISPLAY if display else None
    return Field(title=title, description=description, json_schema_extra=extra)


def _end(title: str, side: str, end: str) -> Any:
    return Field(
        title=f"{title} (95 % Interval, {side})",
        description=f"{end} end of the 95 % interval; null where there is none",
    )


@dataclass_transform(field_specifiers=(Field,))
def metric_class(cls: type[T]) -> type[T]:
    """
    Make a pydantic dataclass with four fields for each ``metric`` of a class, in their order.

    ``name = metric(title, description)`` becomes ``name``, ``name_ci_low``, ``name_ci_high``
    and ``name_n``; ``flat`` fills them. Other fields are written as ever. All are keyword-only.
    """
    own = dict(cls.__dict__.get("__annotations__", {}))
    fields: dict[str, Any] = {}
    for name, found in list(vars(cls).items()):
        if isinstance(found, Metric):
            for field, (annotation, default) in found.fields(name).items():
                fields[field] = annotation
                setattr(cls, field, default)
        elif name in own:
            fields[name] = own[name]
    cls.__annotations__ = fields
    made: Any = dataclass(cls, kw_only=True)
    return made


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
