"""The figures of one SAE from those of its latents, and reading them back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_recipes.chat import Reply
from eval_recipes.results.files import read_result
from eval_recipes.saebench.autointerp.output import NOT_MEASURED, LatentDetail
from eval_recipes.saebench.autointerp.scored import (
    NoScoreError,
    Scored,
    balanced_accuracy,
    share_of_right,
    summary_of,
)
from eval_recipes.statistics.seeds import bootstrap_mean_interval
from saereg_plugin.errors import InputError


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
        **interval("active_negatives", scored, _dirty),
        "n_latents": n_chosen,
        "n_latents_without_data": n_chosen - n_with_data,
        "n_latents_without_negatives": sum(not one.checkable for one in scored),
    }


def judge_figures(
    scored: Sequence[Scored],
    replies: Sequence[Reply],
    *,
    n_unanswered: int,
    seed: int,
    partial: bool = False,
) -> dict[str, Any]:
    """Return the fields that ``CheckedMetrics`` has besides."""
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


def _dirty(scored: Scored) -> float:
    return scored.n_dirty / scored.n_random


def _interval(
    name: str,
    scored: Sequence[Scored],
    figure: Callable[[Scored], float | None],
    *,
    seed: int,
    partial: bool,
) -> dict[str, Any]:
    values = [value for one in scored if (value := figure(one)) is not None]
    found = (NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, 0)
    if values:
        # every figure is a share: equal ones must not give an interval of width 0
        interval = bootstrap_mean_interval(
            [[float(v) for v in values]], caps=[1.0], seed=seed
        )
        found = (interval.value, interval.low, interval.high, interval.n)
    elif not partial:
        raise NoScoreError(
            f"no latent has a {name.replace('_', ' ')}: {summary_of(scored)}"
        )
    names = (name, f"{name}_ci_low", f"{name}_ci_high", f"{name}_n")
    return dict(zip(names, found, strict=True))


def detail_of(scored: Scored) -> LatentDetail:
    """Return one latent's entry of the result file."""
    return LatentDetail(
        latent=scored.latent,
        explanation=scored.explanation,
        score=scored.upstream_score,
        checked_score=share_of_right(scored),
        checked_predictions=scored.predictions,
        checked_active=scored.active,
        unparseable=scored.unparseable,
        refused=scored.refused,
    )


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
