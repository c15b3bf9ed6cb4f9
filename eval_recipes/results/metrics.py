"""Metrics with intervals: one row each, four fields in a result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import DEFAULT_DISPLAY
from typing_extensions import dataclass_transform

from eval_recipes.statistics.seeds import Interval

T = TypeVar("T")


class Metric(NamedTuple):
    """One metric of an output class: four of its fields, or four for each number ``over``."""

    title: str
    description: str
    display: bool
    nullable: bool
    of: str
    resampled: str | None
    over: Sequence[int]
    headline: int | None
    missing: tuple[Any, Any]

    def numbered(self, n: int) -> Metric:
        """Return the metric of one number of a family."""
        return self._replace(
            title=self.title.format(n=n),
            description=self.description.format(n=n),
            display=self.display or n == self.headline,
        )

    def fields(self, name: str) -> dict[str, tuple[Any, Any]]:
        """Return annotation and default of each field, by its name; ``...`` for no default."""
        figure, n = self.missing
        number = float | None if self.nullable else float
        end = float | None if self.resampled is None else number
        count = int if n is not None else int | None
        companions: dict[str, tuple[Any, Any]] = {
            "_ci_low": (end, self._end("Low", "Lower")),
            "_ci_high": (end, self._end("High", "Upper")),
            "_n": (count, value(f"{self.title} (n)", self.of, default=n)),
        }
        if self.resampled is not None and figure is ...:
            # annotated, they come after the figures in a JSON schema
            companions = {
                suffix: (Annotated[annotation, about], ...)
                for suffix, (annotation, about) in companions.items()
            }
        shown = value(
            self.title, self.description, display=self.display, default=figure
        )
        return {name: (number, shown)} | {
            name + suffix: field for suffix, field in companions.items()
        }

    def _end(self, side: str, end: str) -> Any:
        if self.resampled is None:
            title = f"{self.title} (95 % Interval, {side})"
            description = f"{end} end of the 95 % interval; null where there is none"
        else:
            title = f"{self.title} ({side.lower()})"
            description = f"{side} end of the 95 % interval{self.resampled}"
        return value(title, description, default=self.missing[0])


def metric(
    title: str,
    description: str,
    *,
    display: bool = False,
    nullable: bool = True,
    of: str = "Latents, contexts, seeds or seed pairs behind the figure",
    resampled: str | None = None,
    over: Sequence[int] = (),
    headline: int | None = None,
    missing: tuple[Any, Any] = (..., ...),
) -> Any:
    """
    Return a metric with an interval, as an attribute of a ``metric_class``.

    Args:
        title: as people read it; ``{n}`` stands for the number of a family.
        description: what it is.
        display: whether SAEBench's tables show it by themselves.
        nullable: whether the value may be missing.
        of: what its number counts.
        resampled: what the ends' descriptions add on the bootstrap, "" for nothing; their
            titles are then "(low)" and "(high)", and they are null only where the value is.
            None: an interval of any kind, which may always be missing.
        over: numbers of a family, such as those of latents; the attribute's name ends in
            ``_N`` or holds ``_N_`` where they go.
        headline: the number of the family to display.
        missing: defaults of the figures and of the count; ``...`` for a required field.
    """
    return Metric(
        title, description, display, nullable, of, resampled, over, headline, missing
    )


def setting(default: Any, title: str, description: str, **bounds: Any) -> Any:
    """Return the field of a setting; ``bounds`` are pydantic's, such as ``ge=1``."""
    return Field(default=default, title=title, description=description, **bounds)


def value(
    title: str, description: str, *, display: bool = False, default: Any = ...
) -> Any:
    """Return the field of a single value; required unless it has a default."""
    extra = DEFAULT_DISPLAY if display else None
    return Field(
        default=default, title=title, description=description, json_schema_extra=extra
    )


@dataclass_transform(field_specifiers=(Field,))
def metric_class(cls: type[T]) -> type[T]:
    """
    Make a pydantic dataclass with four fields for each ``metric`` of a class, in their order.

    ``name = metric(title, description)`` becomes ``name``, ``name_ci_low``, ``name_ci_high``
    and ``name_n``; ``flat`` fills them. Neighbouring metrics ``over`` the same numbers take
    turns for each number. Fields that the class annotates stay as they are written there.
    All are keyword-only.
    """
    own = dict(cls.__dict__.get("__annotations__", {}))
    fields: dict[str, Any] = {}
    attributes = list(vars(cls).items())
    for name, found in attributes:
        if isinstance(found, Metric):
            delattr(cls, name)
    for name, found in _numbered(attributes):
        if isinstance(found, Metric):
            made = found.fields(name)
            for field in [field for field in made if field not in own]:
                fields[field], default = made[field]
                if default is not ...:
                    setattr(cls, field, default)
        elif name in own:
            fields[name] = own[name]
    cls.__annotations__ = fields
    decorated: Any = dataclass(cls, kw_only=True)
    return decorated


def _numbered(attributes: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield attributes with each family of metrics spread over its numbers."""
    for over, group in groupby(attributes, lambda item: getattr(item[1], "over", ())):
        members = list(group)
        if not over:
            yield from members
        for n in over:
            for name, found in members:
                yield name.replace("_N", f"_{n}"), found.numbered(n)


def without_interval(
    figures: Mapping[str, Mapping[str, Interval | None]],
) -> dict[str, str]:
    """
    Return why figures have no interval, by ``category/metric``; others are left out.

    >>> without_interval({"shared": {"shared": Interval(0.7, None, None, 1, "one pair")}})
    {'shared/shared': 'one pair'}
    """
    return {
        f"{category}/{name}": figure.reason
        for category, found in figures.items()
        for name, figure in found.items()
        if figure is not None and figure.low is None and figure.reason is not None
    }


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
