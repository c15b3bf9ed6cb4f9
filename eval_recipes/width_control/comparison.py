"""One difference between two groups, as results tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Z = 1.959964
"""Standard errors in half a 95 % interval."""


@dataclass(frozen=True)
class Comparison:
    """``group`` minus ``other`` in one metric; ``reason`` says why something is missing."""

    kind: str
    """"regularised - matched", "regularised - wide", "matched - wide", or with "at equal
    explained variance": there the family of ``group``, which differs in the coefficient
    only, is interpolated to the explained variance of ``other``."""
    group: str
    other: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    interval_over: str | None
    """"seed pairs", "seeds", or "latents" (and contexts, where interpolated)."""
    n: int
    """
    How many of ``interval_over``; if latents, of one SAE of every group that is in the
    difference; without an interval how many ``values``.
    """
    values: Mapping[tuple[int, ...], float]
    """The difference in every pair of seeds, or in every (seed,) for figures of single SAEs."""
    explained_variance: float | None = None
    between: tuple[float, float] | None = None
    """Coefficients between which the family was interpolated."""
    reason: str | None = None

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        values = [
            {"seeds": list(seeds), "difference": value}
            for seeds, value in self.values.items()
        ]
        return {
            **{name: value for name, value in vars(self).items() if name != "values"},
            "values": values,
        }
