"""Whether a statement about two groups held, from the numbers and their interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from eval_recipes.report import digits
from eval_recipes.statistics import Interval

Direction = Literal["higher", "lower", "not_lower", "not_higher"]
Outcome = Literal["held", "opposite", "undecided", "missing"]
Source = Literal["paper", "ours"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """
    A statement about a figure of two groups.

    Attributes:
        figure: title of the table's column.
        group: the group it is about.
        other: what it is compared with.
        direction: what is claimed of ``group - other``. ``not_lower`` and ``not_higher``
            allow for ``margin``.
        margin: difference that does not count, 0 or more.
        source: ``paper``, or ``ours`` for what the mechanism lets one expect.
    """

    figure: str
    group: str
    other: str
    direction: Direction
    margin: float = 0.0
    source: Source = "ours"

    @property
    def text(self) -> str:
        """The statement in words."""
        if self.direction in ("higher", "lower"):
            return f"{self.figure} is {self.direction} with {self.group} than with {self.other}"
        way = self.direction.removeprefix("not_")
        by_more = f" by more than {digits(self.margin)}" if self.margin else ""
        return f"{self.figure} is not {way} with {self.group} than with {self.other}{by_more}"


@dataclass(frozen=True)
class Verdict:
    """What became of a claim."""

    claim: Claim
    outcome: Outcome
    difference: Interval | None
    """``group - other``; None if a group or the figure is missing."""

    @property
    def sentence(self) -> str:
        """The claim, what came of it, and the numbers."""
        return f"{_WORDS[self.outcome]}: {self.claim.text} ({_numbers(self)})."

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        found = self.difference
        return {
            "claim": self.claim.text,
            "figure": self.claim.figure,
            "group": self.claim.group,
            "other": self.claim.other,
            "direction": self.claim.direction,
            "margin": self.claim.margin,
            "source": self.claim.source,
            "outcome": self.outcome,
            "difference": None if found is None else found._asdict(),
            "sentence": self.sentence,
        }


_WORDS: dict[Outcome, str] = {
    "held": "Held here",
    "opposite": "Did not hold here, the opposite did",
    "undecided": "Not decided here",
    "missing": "Not measured here",
}


def judge(claim: Claim, difference: Interval | None) -> Verdict:
    """
    Judge a claim by the interval of ``group - other``.

    It holds if the whole interval is on its side (of 0, or of the margin), is the opposite
    if the whole interval is on the other side, and is undecided if the interval crosses or
    there is none.
    """
    if difference is None:
        return Verdict(claim, "missing", None)
    low, high = difference.low, difference.high
    if low is None or high is None:
        return Verdict(claim, "undecided", difference)
    if claim.direction in ("lower", "not_higher"):
        low, high = -high, -low
    # from here on "higher" is claimed, of what must exceed the bound
    bound = 0.0 if claim.direction in ("higher", "lower") else -claim.margin
    if low > bound:
        return Verdict(claim, "held", difference)
    return Verdict(claim, "opposite" if high < bound else "undecided", difference)


def summary(verdicts: Iterable[Verdict]) -> str:
    """Return how many claims held, in one sentence."""
    counts: dict[Outcome, int] = dict.fromkeys(_WORDS, 0)
    for verdict in verdicts:
        counts[verdict.outcome] += 1
    total = sum(counts.values())
    if total == 0:
        return "Nothing was claimed."
    missing = f", {counts['missing']} not measured" if counts["missing"] else ""
    return (
        f"Of {total} statements {counts['held']} held here, of {counts['opposite']} the opposite, "
        f"{counts['undecided']} could not be decided{missing}."
    )


def _numbers(verdict: Verdict) -> str:
    found = verdict.difference
    if found is None:
        return "no result of one of the two"
    value = f"difference {digits(found.value)}"
    if found.low is None or found.high is None:
        return f"{value}, n = {found.n}, no interval: {found.reason}"
    return f"{value}, 95 % interval {digits(found.low)} to {digits(found.high)}, n = {found.n}"
