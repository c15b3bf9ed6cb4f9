"""The interface of steering's judges, and judges by score and threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from scipy.stats import beta

from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.stats.rates import make_trials, success_rate
from saereg_plugin.errors import InputError

if TYPE_CHECKING:
    from eval_recipes.steering.generate.decoding import Continuation

CALIBRATED = ("embedding", "log_probability")
"""Judges whose threshold is learned from unsteered pairs."""


@dataclass(frozen=True)
class Pair:
    """Two continuations of one prompt, and the concept the second was steered towards."""

    concept: str
    """The latent's explanation."""
    prompt: Prompt
    original: Continuation
    """The unsteered text."""
    steered: Continuation
    """The steered text; in a control another unsteered text."""


class Status(Enum):
    """Whether there is a verdict, and if not, why."""

    JUDGED = "judged"
    UNPARSEABLE = "unparseable"
    """The judge's reply is not of the form asked for."""
    REFUSED = "refused"
    """The judge refuses this request for good."""
    UNANSWERED = "unanswered"
    """Budget or retries ran out; the same run resumes from here another time."""
    NOT_APPLICABLE = "not applicable"
    """The pair holds nothing that this judge could judge."""


@dataclass(frozen=True)
class Verdict:
    """A judge's verdict on a pair."""

    status: Status
    score: float | None = None
    """On the judge's own scale, larger for more of the concept; None without a verdict."""
    success: bool | None = None
    """Whether the score counts as success; None without a verdict."""
    reason: str = ""
    """Why there is no verdict."""


class Judge(Protocol):
    """Judges whether steering moved texts towards the explanation."""

    @property
    def name(self) -> str:
        """Short name for tables."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return everything that decides its verdicts, as plain JSON."""
        ...

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """Return a verdict for each pair, in their order."""
        ...


@dataclass(frozen=True)
class Threshold:
    """A score above which a pair counts as success."""

    value: float
    """The threshold; success is a larger score."""
    rate: float | None = None
    """Share of unsteered pairs that may succeed; None for a threshold from elsewhere."""
    n: int = 0
    """Scores it was learned from."""
    achieved: float | None = None
    """Share of these scores that succeed."""
    low: float | None = None
    """Lower end of the 95 % interval of that share: bootstrap over clusters (latents) if they
    are known, else Clopper and Pearson's, which takes scores for independent."""
    high: float | None = None
    n_clusters: int = 0
    """Clusters behind the interval; 0 if they are not known."""

    def passed(self, score: float) -> bool:
        """Return whether a score is a success."""
        return score > self.value


def calibrate(
    scores: Sequence[float], rate: float, *, clusters: Sequence[Hashable] | None = None
) -> Threshold:
    """
    Return the lowest threshold that at most a share ``rate`` of unsteered pairs exceeds.

    Scores are of unsteered pairs with independent random numbers; those of one cluster, such as a
    latent, are not independent.

    Raises:
        InputError: if the rate is not between 0 and 1, a score is not finite, or there are too
            few scores for a false positive.

    >>> calibrate([0.1, 0.2, 0.3, 0.4], 0.25).value
    0.3
    """
    if not 0 < rate < 1:
        raise InputError(
            f"The false-positive rate is {rate}; expected one between 0 and 1, such as .05."
        )
    if not all(math.isfinite(score) for score in scores):
        raise InputError(
            "A score of an unsteered pair is not finite; expected numbers."
        )
    n = len(scores)
    # products such as .05 * 60 may fall just short of a whole number
    allowed = math.floor(rate * n + 1e-9)
    if allowed < 1:
        raise InputError(
            f"{n} unsteered pairs are too few for a false-positive rate of {rate}; expected "
            f"{math.ceil(1 / rate)} or more."
        )
    value = sorted(scores, reverse=True)[allowed]
    passed = [score > value for score in scores]
    successes = sum(passed)
    if clusters is not None:
        found = success_rate(make_trials(passed, clusters), seed=0)
        assert found is not None
        return Threshold(value, rate, n, successes / n, found.low, found.high, found.n)
    low = float(beta.ppf(0.025, successes, n - successes + 1)) if successes else 0.0
    high = float(beta.ppf(0.975, successes + 1, n - successes))
    return Threshold(value, rate, n, successes / n, low, high)


class ThresholdJudge:
    """
    A judge whose verdict is a score above a threshold; it needs no server.

    The threshold is None until ``calibrate`` or ``learn`` has set it.
    """

    name = "threshold"

    def __init__(self, threshold: Threshold | None) -> None:
        self.threshold = threshold

    def scores(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Return each pair's score; None for a pair that cannot be scored."""
        score = self.scorer(pairs)
        return [None if self.why_not(pair) else score(pair) for pair in pairs]

    def scorer(self, pairs: Sequence[Pair]) -> Callable[[Pair], float]:
        """Read the texts of pairs; return a function that scores a pair of these."""
        raise NotImplementedError

    def why_not(self, pair: Pair) -> str:
        """Return why a pair has no score; empty if it has one."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the scores, as plain JSON."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return everything that decides its verdicts, as plain JSON."""
        threshold = None if self.threshold is None else asdict(self.threshold)
        return {"judge": self.name, **self.settings(), "threshold": threshold}

    def calibrate(
        self,
        unsteered: Sequence[Pair],
        *,
        rate: float,
        clusters: Sequence[Hashable] | None = None,
    ) -> Threshold:
        """
        Set the threshold by pairs of unsteered texts with independent random numbers.

        Args:
            unsteered: the pairs; none of their texts should be in a pair that is judged.
            rate: share of them that may succeed.
            clusters: the cluster of each pair, such as its latent.

        Raises:
            InputError: if too few of them can be scored.
        """
        return self.learn(self.scores(unsteered), rate=rate, clusters=clusters)

    def learn(
        self,
        scores: Sequence[float | None],
        *,
        rate: float,
        clusters: Sequence[Hashable] | None = None,
    ) -> Threshold:
        """
        Set the threshold by ``scores`` of such pairs; scores that are None are left out.

        Raises:
            InputError: if too few are left.
        """
        kept = [place for place, score in enumerate(scores) if score is not None]
        self.threshold = calibrate(
            [score for score in scores if score is not None],
            rate,
            clusters=clusters and [clusters[place] for place in kept],
        )
        return self.threshold

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """
        Return a verdict for each pair.

        Raises:
            InputError: if there is no threshold yet.
        """
        self._required()
        return self.verdicts(pairs, self.scores(pairs))

    def verdicts(
        self, pairs: Sequence[Pair], scores: Sequence[float | None]
    ) -> list[Verdict]:
        """
        Return a verdict for each pair from its score.

        Raises:
            InputError: if there is no threshold yet.
        """
        threshold = self._required()
        return [
            Verdict(Status.NOT_APPLICABLE, reason=self.why_not(pair))
            if score is None
            else Verdict(Status.JUDGED, score, threshold.passed(score))
            for pair, score in zip(pairs, scores, strict=True)
        ]

    def _required(self) -> Threshold:
        if self.threshold is None:
            raise InputError(
                f"The {self.name} judge has no threshold; expected one from elsewhere, or "
                "`calibrate` with unsteered pairs first."
            )
        return self.threshold
