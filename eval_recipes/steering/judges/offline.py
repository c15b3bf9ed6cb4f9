"""Judges without a server: a score and a threshold."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict
from typing import Any

from eval_recipes.steering.judges.protocol import (
    Pair,
    Status,
    Threshold,
    Verdict,
    calibrate,
)
from saereg_plugin.errors import InputError


class ThresholdJudge:
    """
    A judge whose verdict is a score above a threshold.

    Args:
        threshold: which score is a success; None until ``calibrate`` found one.
    """

    name = "threshold"

    def __init__(self, threshold: Threshold | None) -> None:
        self.threshold = threshold

    def scores(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Return each pair's score; None for one that cannot be scored."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return what decides the scores, as plain JSON."""
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
            clusters: what each pair belongs to, such as its latent.

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
        Set the threshold by ``scores`` of such pairs; those that are None are left out.

        Raises:
            InputError: if too few are left.
        """
        kept = [place for place, score in enumerate(scores) if score is not None]
        scored = [score for score in scores if score is not None]
        of = None if clusters is None else [clusters[place] for place in kept]
        self.threshold = calibrate(scored, rate, clusters=of)
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
        threshold = self.threshold
        if threshold is None:
            raise InputError(
                f"The {self.name} judge has no threshold; expected one from elsewhere, or "
                "`calibrate` with unsteered pairs first."
            )
        return threshold

    def why_not(self, pair: Pair) -> str:
        """Return why a pair has no score."""
        raise NotImplementedError
