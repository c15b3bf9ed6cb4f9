"""Scores of latents, and the figures of an SAE made of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_recipes.chat import Reply
from eval_recipes.results.files import read_result
from eval_recipes.results.metrics import flat
from eval_recipes.statistics.seeds import Interval, bootstrap_mean_interval
from saereg_plugin.errors import InputError

NOT_MEASURED = -1.0
"""Upstream's score where no language model judged: its format has no place for "none"."""


@dataclass(frozen=True)
class TokenCounts:
    """How often a latent fires and is predicted to, on text that did not explain it."""

    n_tokens: int
    n_fired: int
    n_predicted: int
    n_both: int

    @property
    def precision(self) -> float | None:
        """Share of the predicted tokens on which the latent fires; None without any."""
        return self.n_both / self.n_predicted if self.n_predicted else None

    @property
    def recall(self) -> float | None:
        """Share of the tokens on which it fires that were predicted; None without any."""
        return self.n_both / self.n_fired if self.n_fired else None

    @property
    def firing_rate(self) -> float | None:
        """Share of the tokens on which it fires: the precision of a random prediction."""
        return self.n_fired / self.n_tokens if self.n_tokens else None

    @property
    def predicted_rate(self) -> float | None:
        """Share of the tokens that were predicted: the recall of a random prediction."""
        return self.n_predicted / self.n_tokens if self.n_tokens else None


@dataclass
class Scored:
    """Outcome and scores of one latent; None where there is none."""

    latent: int
    n_dirty: int
    """Active examples that upstream took for inactive."""

    n_random: int
    """Examples that upstream took for inactive."""

    checkable: bool
    """Whether enough inactive examples were found."""

    explanation: str | None = None
    upstream_score: float | None = None
    predictions: list[int] | None = None
    """Numbers, from 1, of the checked examples that fit the explanation."""

    active: list[bool] | None = None
    """Whether the latent is active in each checked example; None if too few are inactive."""

    unparseable: bool = False
    """Whether a reply, also to upstream's own prompt, had another form than asked for."""

    refused: str | None = None
    unanswered: str | None = None
    counts: TokenCounts | None = None
    """Of the N2G explainer alone."""

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
    """No latent has a figure, so an SAE has no mean."""


class TooFewRepliesError(NoScoreError):
    """The same while replies are missing."""


def summary_of(scored: Sequence[Scored]) -> str:
    """Return the counts of outcomes and the first cause, for a message."""
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


def common_figures(
    scored: Sequence[Scored],
    *,
    n_chosen: int,
    n_with_data: int,
    seed: int,
    partial: bool = False,
) -> dict[str, Any]:
    """
    Return the fields of ``TokenMetrics``.

    Args:
        scored: the latents with all replies.
        n_chosen: latents chosen.
        n_with_data: of these, latents with examples.
        seed: seed of the bootstrap.
        partial: put ``NOT_MEASURED`` where nothing has a figure, with an n of 0.

    Raises:
        NoScoreError: if no latent has a checked score, unless ``partial``.
    """
    with_score = [one for one in scored if one.hits is not None]
    floors = [
        one.active.count(False) / len(one.active) for one in with_score if one.active
    ]
    interval = functools.partial(_interval, seed=seed, partial=partial)
    return {
        **interval("score", with_score, share_of_right),
        "floor": sum(floors) / len(floors) if floors else NOT_MEASURED,
        **interval("balanced_accuracy", with_score, balanced_accuracy),
        **interval("active_negatives", scored, lambda one: one.n_dirty / one.n_random),
        "n_latents": n_chosen,
        "n_latents_without_data": n_chosen - n_with_data,
        "n_latents_without_negatives": sum(not one.checkable for one in scored),
    }


def n2g_figures(scored: Sequence[Scored], *, seed: int) -> dict[str, Any]:
    """Return the further fields of ``N2GMetrics``."""
    values: dict[str, Callable[[TokenCounts], float | None]] = {
        "precision": lambda counts: counts.precision,
        "recall": lambda counts: counts.recall,
        "firing_rate": lambda counts: counts.firing_rate,
        "predicted_rate": lambda counts: counts.predicted_rate,
    }
    fields: dict[str, Any] = {}
    for name, value in values.items():
        fields |= _interval(
            name,
            scored,
            lambda one, value=value: None if one.counts is None else value(one.counts),
            seed=seed,
            # no latent may be predicted anywhere
            partial=True,
        )
    return fields


def judge_figures(
    scored: Sequence[Scored],
    replies: Sequence[Reply],
    *,
    n_unanswered: int,
    seed: int,
    partial: bool = False,
) -> dict[str, Any]:
    """Return the further fields of ``CheckedMetrics``."""
    answered = [one for one in scored if one.refused is None]
    return {
        **_interval(
            "unparseable_rate",
            answered,
            lambda one: one.unparseable,
            seed=seed,
            partial=partial,
        ),
        "n_latents_upstream": sum(one.upstream_score is not None for one in scored),
        "n_latents_refused": len(scored) - len(answered),
        "n_latents_unanswered": n_unanswered,
        "judge_calls": len(replies),
        "judge_tokens": sum(reply.tokens for reply in replies),
    }


def _interval(
    name: str,
    scored: Sequence[Scored],
    figure: Callable[[Scored], float | None],
    *,
    seed: int,
    partial: bool,
) -> dict[str, Any]:
    values = [float(v) for one in scored if (v := figure(one)) is not None]
    if not values and not partial:
        raise NoScoreError(
            f"no latent has a {name.replace('_', ' ')}: {summary_of(scored)}"
        )
    # every figure is a share: equal ones must not give an interval of width 0
    interval = (
        bootstrap_mean_interval([values], caps=[1.0], seed=seed)
        if values
        else Interval(NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, 0)
    )
    return flat({name: interval})


@dataclass(frozen=True)
class Explanation:
    """An explanation and its scores; None where a judge gave no usable reply."""

    text: str
    score: float | None
    """Upstream's score; None if the token explainer explained."""

    checked_score: float | None


def read_explanations(path: Path) -> dict[int, Explanation]:
    """
    Return the explanations in a result file of autointerp, by latent.

    Latents without an explanation are left out.

    Raises:
        InputError: if the file cannot be read or is of another evaluation.
    """
    record = read_result(path)
    details = record.get("eval_result_details") or []
    if record["eval_type_id"] != "autointerp" or any(
        "explanation" not in detail for detail in details
    ):
        raise InputError(
            f"File {str(path)!r} holds no explanations; expected a result of autointerp "
            "that saereg-bench wrote."
        )
    return {
        detail["latent"]: Explanation(
            detail["explanation"], detail["score"], detail["checked_score"]
        )
        for detail in details
        if detail["explanation"]
    }
