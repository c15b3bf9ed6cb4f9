"""One difference between two groups, as results tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eval_recipes.statistics import SeedPair

Z = 1.959964
"""Standard errors in half a 95 % interval."""


@dataclass(frozen=True)
class Comparison:
    """``group`` minus ``other`` in one metric; ``reason`` says why something is missing."""

    kind: str
    """"regularised - matched", "regularised - wide", "matched - wide", or with "at equal
    explained variance": there the regularised family is interpolated to that of ``other``."""
    group: str
    other: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    interval_over: str | None
    """"seed pairs", "seeds", or "latents" (and contexts, where interpolated)."""
    values: Mapping[SeedPair, float]
    """The difference of every pair of seeds."""
    explained_variance: float | None = None
    between: tuple[float, float] | None = None
    """Coefficients between which the family was interpolated."""
    reason: str | None = None

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        values = [
            {"seeds": list(pair), "difference": value}
            for pair, value in self.values.items()
        ]
        return {
            **{name: value for name, value in vars(self).items() if name != "values"},
            "values": values,
        }
