"""Outcome and scores of one latent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Scored:
    """What one latent came to; None where there is no such figure."""

    latent: int
    n_dirty: int
    """Examples that upstream took for inactive and that are not."""

    n_random: int
    """Examples that upstream took for inactive."""

    checkable: bool
    """Whether enough inactive examples were found."""

    explanation: str | None = None
    upstream_score: float | None = None
    predictions: list[int] | None = None
    """Numbers, from 1, of the checked examples that the explanation was said to fit."""

    active: list[bool] | None = None
    """Whether the latent is active in each checked example; None if too few are inactive."""

    unparseable: bool = False
    """Whether a reply was not of the form asked for, be it to upstream's own prompt."""

    refused: str | None = None
    unanswered: str | None = None

    @property
    def hits(self) -> list[bool] | None:
        """Whether the prediction is right, for each checked example."""
        if self.active is None or self.predictions is None:
            return None
        return [
            (number in self.predictions) == active
            for number, active in enumerate(self.active, start=1)
        ]


class NoScoreError(RuntimeError):
    """No latent has the figure that an SAE's would be the mean of."""


class TooFewRepliesError(NoScoreError):
    """The same, but with replies that are still missing there may be one."""


def summary_of(scored: Sequence[Scored]) -> str:
    """Return what became of the latents, for a message."""
    counts = {
        "with data": len(scored),
        "unparseable": sum(one.unparseable for one in scored),
        "refused": sum(one.refused is not None for one in scored),
        "unanswered": sum(one.unanswered is not None for one in scored),
    }
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    causes = [one.unanswered or one.refused for one in scored]
    first = next((cause for cause in causes if cause), None)
    return f"latents {text}" + (f"; {first}" if first else "")


def share_of_right(scored: Scored) -> float | None:
    """Return the share of checked examples that were predicted rightly."""
    hits = scored.hits
    return None if hits is None else sum(hits) / len(hits)


def balanced_accuracy(scored: Scored) -> float | None:
    """Return the mean of the shares of right predictions among active and inactive."""
    hits, active = scored.hits, scored.active
    if hits is None or active is None or len(set(active)) < 2:
        return None
    shares = [
        [
            hit
            for hit, is_active in zip(hits, active, strict=True)
            if is_active is wanted
        ]
        for wanted in (True, False)
    ]
    return math.fsum(sum(share) / len(share) for share in shares) / 2
