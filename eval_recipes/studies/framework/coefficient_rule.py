"""The paper's rule for a coefficient: the largest that costs no explained variance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """
    A coefficient chosen for one setting.

    Attributes:
        name: of the setting.
        coefficient: chosen, in the units of the configuration.
        baseline: explained variance without the penalty.
        candidates: explained variance by coefficient.
        within: whether the chosen one reaches the baseline; if none does, the smallest
            is taken and this is False.
        n_seeds: how many seeds each explained variance is the mean of.
    """

    name: str
    coefficient: float
    baseline: float
    candidates: Mapping[float, float]
    within: bool
    n_seeds: int = 1

    @property
    def at_edge(self) -> bool:
        """Whether it is the largest candidate, so that a larger one might do as well."""
        return self.within and self.coefficient == max(self.candidates)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        values = {**asdict(self), "at_edge": self.at_edge}
        values["candidates"] = [
            {"coefficient": coefficient, "explained_variance": variance}
            for coefficient, variance in sorted(self.candidates.items())
        ]
        return values

    def text(self) -> str:
        """Return the choice as a sentence."""
        shown = ", ".join(
            f"{coefficient:g}: {variance:.4f}"
            for coefficient, variance in sorted(self.candidates.items())
        )
        how = (
            "the largest whose explained variance is at least the baseline's"
            if self.within
            else "no candidate reaches the baseline's explained variance, so the smallest"
        )
        edge = (
            "; it is at the edge of the grid: larger ones were not tried"
            if self.at_edge
            else ""
        )
        seeds = "one seed" if self.n_seeds == 1 else f"{self.n_seeds} seeds"
        return (
            f"{self.name}: {self.coefficient:g}, {how} ({self.baseline:.4f}; {shown}; of {seeds}, "
            f"without interval){edge}."
        )


def largest_without_loss(
    name: str,
    baseline: float,
    candidates: Mapping[float, float],
    *,
    n_seeds: int = 1,
) -> Choice:
    """
    Return the largest coefficient whose explained variance is at least the baseline's.

    arXiv 2606.27321 takes lambda so, by the R^2 of test data. If none reaches it, the
    smallest is taken and ``within`` is False.

    Args:
        name: of the setting, for reports.
        baseline: explained variance without the penalty.
        candidates: explained variance by coefficient, at least one.
        n_seeds: how many seeds each explained variance is the mean of.

    >>> largest_without_loss("k32", 0.8, {0.01: 0.81, 0.1: 0.80, 1.0: 0.7}).coefficient
    0.1
    """
    if not candidates:
        raise ValueError(f"{name}: expected at least one candidate")
    reaching = [c for c, variance in candidates.items() if variance >= baseline]
    chosen = max(reaching) if reaching else min(candidates)
    return Choice(name, chosen, baseline, dict(candidates), bool(reaching), n_seeds)
