"""Claims about two groups and their verdicts, from intervals and p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from eval_recipes.results.differences import Values, listed_values
from eval_recipes.statistics.interval import NO_VARIATION, Interval
from eval_recipes.tables.table import digits, interval_words

MATCHED = 0.01
"""Two groups are equal in a figure if they differ by at most this share of the larger value."""

Match = Literal["matched", "unmatched", "not shown"]


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
        share = f"{MATCHED:.0%}"
        numbers = (
            f"{digits(self.group)} against {digits(self.other)}, difference "
            f"{digits(self.difference.value)}, {interval_words(self.difference)}"
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
        difference = self.difference._asdict()
        return {**self._asdict(), "difference": difference, "match": self.match}


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

    The i-th smallest of m (from 0) is multiplied by m - i, at most 1, and never less than a
    smaller one's. Rejecting those below a level keeps the chance of any false rejection below
    that level, however the p-values depend on each other.

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


Direction = Literal["higher", "lower", "not_lower", "not_higher"]
Outcome = Literal["held", "opposite", "undecided", "missing"]
Source = Literal["paper", "adapted", "ours"]

LEVEL = 0.05
"""Two-sided, of intervals (95 %) and of corrected p-values."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """
    A statement about a figure of two groups.

    Attributes:
        figure: title of the table's column.
        group: the group that the claim is about.
        other: the group it is compared with.
        direction: what is claimed of ``group - other``. ``not_lower`` and ``not_higher``
            allow for ``margin``.
        margin: difference that does not count, 0 or more.
        margin_share: the margin as a share of the other group's figure, which ``against`` fills in.
        source: ``paper``; ``adapted`` for the paper's statement at our own coefficient; or
            ``ours`` for an expectation from the mechanism.
        beside: title of a column that should be equal in both groups but may differ, such as
            L0; the verdict states its difference.
    """

    figure: str
    group: str
    other: str
    direction: Direction
    margin: float = 0.0
    margin_share: float = 0.0
    source: Source = "ours"
    beside: str | None = None

    @property
    def text(self) -> str:
        """The statement in words."""
        if self.direction in ("higher", "lower"):
            return f"{self.figure} is {self.direction} with {self.group} than with {self.other}"
        way = self.direction.removeprefix("not_")
        by_more = f" by more than {digits(self.margin)}" if self.margin else ""
        if self.margin_share:
            size = f" ({digits(self.margin)})" if self.margin else ""
            by_more = (
                f" by more than {100 * self.margin_share:.0f} % of the latter{size}"
            )
        return f"{self.figure} is not {way} with {self.group} than with {self.other}{by_more}"

    def against(self, other: float) -> Claim:
        """
        Return the claim with the margin that its share of the other group's figure makes.

        >>> claim = Claim(figure="f", group="a", other="b", direction="not_lower", margin_share=0.2)
        >>> claim.against(0.01).bound
        -0.002
        """
        if not self.margin_share:
            return self
        return replace(self, margin=self.margin_share * abs(other))

    @property
    def upwards(self) -> bool:
        """Whether a larger difference speaks for it."""
        return self.direction in ("higher", "not_lower")

    @property
    def bound(self) -> float:
        """Value that ``group - other`` must exceed (``upwards``) or stay below."""
        if self.direction in ("higher", "lower"):
            return 0.0
        return -self.margin if self.direction == "not_lower" else self.margin

    def fits(self, difference: float) -> bool:
        """Whether a single difference is on the claimed side."""
        if difference == self.bound:
            return self.direction.startswith("not_")
        return (difference > self.bound) == self.upwards


@dataclass(frozen=True)
class Verdict:
    """A judged claim."""

    claim: Claim
    outcome: Outcome
    difference: Interval | None
    """``group - other``; None if a group or the figure is missing."""
    values: Values = ()
    """The difference in each seed or pair of seeds alone."""
    beside: Beside | None = None
    p: float | None = None
    """Two-sided, of a difference equal to the claim's bound; None without an interval."""
    p_corrected: float | None = None
    """The same, corrected for the study's number of statements."""

    @property
    def survives(self) -> bool | None:
        """Whether the outcome holds after correction; None if there is nothing to correct."""
        if self.p_corrected is None or self.outcome not in ("held", "opposite"):
            return None
        return self.p_corrected < LEVEL

    @property
    def sentence(self) -> str:
        """The claim, its outcome and the numbers."""
        word = _WORDS[self.outcome]
        if self.survives is False:
            word += ", but not after correction"
        beside = "" if self.beside is None else f" {self.beside.sentence}"
        return f"{word}: {self.claim.text} ({_numbers(self)}).{beside}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        claim = {k: v for k, v in vars(self.claim).items() if k != "beside"}
        return {
            "claim": self.claim.text,
            **claim,
            "outcome": self.outcome,
            "difference": self.difference and self.difference._asdict(),
            "values": listed_values(self.values),
            "p": self.p,
            "p_corrected": self.p_corrected,
            "survives_correction": self.survives,
            "beside": self.beside and self.beside.to_dict(),
            "sentence": self.sentence,
        }


_WORDS: dict[Outcome, str] = {
    "held": "Held here",
    "opposite": "Did not hold here, the opposite did",
    "undecided": "Not decided here",
    "missing": "Not measured here",
}


def judge(
    claim: Claim,
    difference: Interval | None,
    *,
    values: Values = (),
    beside: Beside | None = None,
    p: float | None = None,
) -> Verdict:
    """
    Judge a claim by the interval of ``group - other``.

    It holds if the whole interval is on its side (of 0, or of the margin), is the opposite
    if the whole interval is on the other side, and is undecided if the interval crosses or
    there is none. ``values``, ``beside`` and ``p`` are only passed on.
    """
    if difference is None:
        return Verdict(claim, "missing", None)
    outcome = _outcome(claim, difference)
    return Verdict(claim, outcome, difference, values, beside, p)


def _outcome(claim: Claim, difference: Interval) -> Outcome:
    low, high = difference.low, difference.high
    if low is None or high is None:
        return "undecided"
    above, below = low > claim.bound, high < claim.bound
    if above or below:
        return "held" if above == claim.upwards else "opposite"
    return "undecided"


def holm_corrected(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Correct the p-values of verdicts by Holm's method, over those that have one."""
    found = iter(holm([verdict.p for verdict in verdicts if verdict.p is not None]))
    return [
        verdict if verdict.p is None else replace(verdict, p_corrected=next(found))
        for verdict in verdicts
    ]


def summary(given: Sequence[Verdict]) -> str:
    """Return how many claims held, in one sentence."""
    if not given:
        return "Nothing was claimed."

    def count(outcome: Outcome) -> str:
        same = [verdict for verdict in given if verdict.outcome == outcome]
        left = sum(verdict.survives is True for verdict in same)
        tested = any(verdict.survives is not None for verdict in same)
        return f"{len(same)}" + (f" ({left} after correction)" if tested else "")

    lacking = any(verdict.outcome == "missing" for verdict in given)
    missing = f", {count('missing')} not measured" if lacking else ""
    return (
        f"Of {len(given)} statements {count('held')} held here, of {count('opposite')} the "
        f"opposite, {count('undecided')} could not be decided{missing}."
    )


def _numbers(verdict: Verdict) -> str:
    found = verdict.difference
    if found is None:
        return "no result of one of the two"
    value, interval = f"difference {digits(found.value)}", interval_words(found)
    if found.low is None or found.high is None:
        shown = f"{value}, n = {found.n}, {interval}"
        if not verdict.values:
            return shown
        on_side = sum(verdict.claim.fits(value) for _, value in verdict.values)
        return (
            f"{shown}; {values_text(verdict.values)}; {on_side} of {len(verdict.values)} on the "
            "claimed side"
        )
    text = f"{value}, {interval}, n = {found.n}"
    if verdict.p is None:
        return text
    corrected = verdict.p_corrected
    after = "" if corrected is None else f", corrected {corrected:.2g}"
    return f"{text}, p = {verdict.p:.2g}{after}"
