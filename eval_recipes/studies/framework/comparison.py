"""The difference of two groups in one figure, how sure it is, and what differs beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from scipy.stats import t as student_t

from eval_recipes.statistics.interval import NO_VARIATION
from eval_recipes.statistics.seeds import ROUNDING, Interval
from eval_recipes.tables.run_table import digits

Values = tuple[tuple[tuple[int, ...], float], ...]
"""(seed,) or (seed, other seed), and the difference in it alone."""

MATCHED = 0.01
"""Two groups are equal in a figure if they differ by at most this share of the larger value."""

Match = Literal["matched", "unmatched", "not shown"]


class Difference(NamedTuple):
    """``group - other``; an interval, if there is one, is over seeds or pairs of seeds."""

    interval: Interval
    values: Values

    @property
    def freedom(self) -> int:
        """Degrees of freedom of Student's t: of pairs, too, they are those of their seeds."""
        return len({seed for seeds, _ in self.values for seed in seeds}) - 1

    def p_value(self, bound: float) -> float | None:
        """
        Return the two-sided p-value of a difference equal to ``bound``.

        It is below .05 where the 95 % interval, from which the standard error comes, leaves
        ``bound`` out. None without an interval, or with one that only rounding widens.
        """
        found = self.interval
        if found.low is None or found.high is None or self.freedom < 1:
            return None
        error = (found.high - found.low) / 2 / float(student_t.ppf(0.975, self.freedom))
        if error <= ROUNDING * max(abs(found.low), abs(found.high)):
            return None
        distance = abs(found.value - bound) / error
        return 2 * float(student_t.sf(distance, self.freedom))


class Beside(NamedTuple):
    """A figure in which two compared groups should be equal."""

    figure: str
    group: float
    other: float
    difference: Interval

    @property
    def match(self) -> Match:
        """
        Whether they are equal within ``MATCHED``, by the whole interval of the difference.

        A difference that does not vary at all (L0 of TopK) has no interval and decides by
        itself; without an interval for another reason nothing is shown.
        """
        found = self.difference
        allowed = MATCHED * max(abs(self.group), abs(self.other))
        low, high = found.low, found.high
        if found.reason == NO_VARIATION:
            low = high = found.value
        if low is None or high is None:
            return "not shown"
        if -allowed <= low and high <= allowed:
            return "matched"
        return "unmatched" if low > allowed or high < -allowed else "not shown"

    @property
    def sentence(self) -> str:
        """Whether the groups are matched, with both values, their difference and its interval."""
        found, share = self.difference, f"{MATCHED:.0%}"
        ends = (
            f"no interval: {found.reason}"
            if found.low is None or found.high is None
            else f"95 % interval {digits(found.low)} to {digits(found.high)}"
        )
        numbers = (
            f"{digits(self.group)} against {digits(self.other)}, difference "
            f"{digits(found.value)}, {ends}"
        )
        if self.match == "matched":
            return f"Matched: {self.figure} is equal within {share} ({numbers})."
        if self.match == "unmatched":
            return (
                f"Unmatched: {self.figure} differs by more than {share} ({numbers}), which alone "
                "can move the figure."
            )
        return (
            f"Not shown to be matched: {self.figure} may be equal within {share} or not "
            f"({numbers})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "figure": self.figure,
            "group": self.group,
            "other": self.other,
            "difference": self.difference._asdict(),
            "match": self.match,
        }


def values_text(values: Values) -> str:
    """
    Name every seed or pair of seeds with its value.

    >>> values_text((((0, 1), 0.25), ((0, 2), 0.5)))
    'pairs of seeds: 0-1: .250, 0-2: .500'
    """
    pairs = any(len(seeds) > 1 for seeds, _ in values)
    shown = ", ".join(
        f"{'-'.join(map(str, seeds))}: {digits(value)}" for seeds, value in values
    )
    return f"{'pairs of seeds' if pairs else 'seeds'}: {shown}"


def holm(p_values: Sequence[float]) -> list[float]:
    """
    Return Holm's corrected p-values, in the order given.

    The i-th smallest of m (from 0) is times m - i, at most 1, and never less than a smaller
    one's. Rejecting those below a level keeps the chance of any false rejection below it,
    whatever their dependence.

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected[place] = largest
    return corrected
