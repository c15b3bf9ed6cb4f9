"""Steering's figures from its table of texts: rates, controls, fluency, associations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.stats.association import (
    Association,
    Figure,
    StabilityLink,
    associate,
    stability_link,
)
from eval_recipes.steering.stats.rates import (
    Array,
    Trials,
    cluster_mean,
    make_trials,
    paired_difference,
    restricted,
    success_rate,
)

LATENT = ["sae", "latent"]
"""Columns that identify a latent; the table of a single SAE lacks ``sae``."""


_PAIR = ["prompt", "original", "text"]


@dataclass(frozen=True)
class Counts:
    """Pairs of texts behind a rate of one arm."""

    pairs: int = 0
    """Pairs with a verdict."""
    without_verdict: int = 0
    distinct: int = 0
    """Different pairs among the pairs with a verdict."""


@dataclass(frozen=True)
class Rates:
    """Success at one strength by one judge, next to its controls."""

    success: Interval | None = None
    """Share of steered pairs that succeed."""
    fluent: Interval | None = None
    """Share that succeed without losing more fluency than allowed."""
    unsteered: Interval | None = None
    """Success of pairs of unsteered texts with independent random numbers."""
    random: Interval | None = None
    """Success of a random direction, judged by the latent's explanation."""
    over_unsteered: Interval | None = None
    """Success minus unsteered, on pairs that have both verdicts."""
    over_random: Interval | None = None
    """Success minus random, on pairs that have both verdicts."""
    counts: Mapping[str, Counts] = field(default_factory=dict[str, Counts])
    """By arm."""


def rates(
    texts: pd.DataFrame, judge: str, amount: float, *, max_ratio: float, seed: int
) -> Rates:
    """
    Return the success rates at one strength.

    ``texts`` are of one SAE, or of several with a column ``sae``; ``amount`` is in units of the mode.
    A text is fluent up to ``max_ratio`` of steered over unsteered perplexity.
    """
    rows = {
        name: arm(texts, judge, name, None if name == "unsteered" else amount)
        for name in ("steered", "unsteered", "random")
    }
    known = {name: with_verdict(part, judge) for name, part in rows.items()}
    steered = trials_of(known["steered"], judge)
    fluent = is_fluent(known["steered"], max_ratio)

    def over(control: str) -> Interval | None:
        return over_control(known["steered"], known[control], judge, seed=seed)

    return Rates(
        success=success_rate(steered, seed=seed),
        fluent=success_rate(
            Trials(steered.success & fluent, steered.latent), seed=seed
        ),
        unsteered=success_rate(trials_of(known["unsteered"], judge), seed=seed),
        random=success_rate(trials_of(known["random"], judge), seed=seed),
        over_unsteered=over("unsteered"),
        over_random=over("random"),
        counts={
            name: Counts(
                pairs=len(known[name]),
                without_verdict=len(part) - len(known[name]),
                distinct=len(known[name].drop_duplicates(_PAIR)),
            )
            for name, part in rows.items()
        },
    )


def arm(
    texts: pd.DataFrame, judge: str, name: str, amount: float | None
) -> pd.DataFrame:
    """Return the rows of one arm at one strength; a control without strength has none."""
    chosen = texts["arm"] == name
    if amount is not None:
        chosen &= texts["amount"] == amount
    return texts.loc[chosen & texts[f"{judge}_status"].notna()]


def with_verdict(rows: pd.DataFrame, judge: str) -> pd.DataFrame:
    """Return the rows on which the judge has a verdict."""
    return rows.loc[rows[f"{judge}_success"].notna()]


def judged(
    texts: pd.DataFrame, judge: str, name: str, amount: float | None
) -> pd.DataFrame:
    """Return the rows of one arm at one strength on which the judge has a verdict."""
    return with_verdict(arm(texts, judge, name, amount), judge)


def keys_of(rows: pd.DataFrame) -> list[Any]:
    """Return the key of each row's latent."""
    present = [name for name in LATENT if name in rows.columns]
    return list(rows[present].itertuples(index=False, name=None))


def trials_of(rows: pd.DataFrame, judge: str) -> Trials:
    """Return outcomes and latents of rows that all have a verdict."""
    return make_trials(rows[f"{judge}_success"].astype(bool).tolist(), keys_of(rows))


def over_control(
    steered: pd.DataFrame, control: pd.DataFrame, judge: str, *, seed: int
) -> Interval | None:
    """
    Return the success of steered pairs minus that of a control's.

    On pairs of the same latent, prompt and repeat that both have a verdict; bootstrap over
    latents, drawn with both. None if there is no such pair.
    """
    keys = [*(name for name in LATENT if name in steered.columns), "prompt", "repeat"]
    left, right = (rows.set_index(keys).sort_index() for rows in (steered, control))
    shared = left.index.intersection(right.index)
    both = (rows.loc[shared].reset_index() for rows in (left, right))
    return paired_difference(*(trials_of(part, judge) for part in both), seed=seed)


def is_fluent(rows: pd.DataFrame, max_ratio: float) -> Any:
    """Return the mask of texts that lose no more fluency than allowed; false without tokens."""
    ratio = rows["perplexity"] / rows["original_perplexity"]
    return (ratio <= max_ratio).to_numpy(dtype=bool)


def fluency_loss(
    texts: pd.DataFrame, name: str, amount: float, *, seed: int
) -> Interval | None:
    """
    Return the mean of ln(perplexity / original perplexity) in an arm, in nats per token.

    Interval: bootstrap over latents. None if no text has tokens.
    """
    rows = texts.loc[(texts["arm"] == name) & (texts["amount"] == amount)]
    loss = np.log(rows["perplexity"] / rows["original_perplexity"])
    rows = rows.loc[loss.notna()]
    if rows.empty:
        return None
    found = make_trials([True] * len(rows), keys_of(rows))
    values = loss.loc[rows.index].to_numpy(dtype=np.float64)
    return cluster_mean(values, found.latent, seed=seed)


@dataclass(frozen=True)
class Links:
    """Associations of success, over latents."""

    interp: Association | None
    """With the auto-interp score; None if no latent has a score."""
    stability: StabilityLink | None
    """With stability across seeds; None if it is not known."""


def links(texts: pd.DataFrame, judge: str, amount: float, *, seed: int) -> Links:
    """
    Relate success at one strength to interp scores and stability.

    Latents without a score or a stability are left out of its figures.
    """
    rows = judged(texts, judge, "steered", amount)
    trials = trials_of(rows, judge)
    if not trials.success.size:
        return Links(None, None)
    score, stability = (
        of_latents(rows, trials, name) for name in ("interp_score", "stability")
    )
    interp = link = None
    if np.isfinite(score).any():
        kept = np.isfinite(score)
        interp = associate(restricted(trials, kept), score[kept], seed=seed)
    if np.isfinite(stability).any():
        kept = np.isfinite(stability)
        scores = score[kept] if np.isfinite(score[kept]).any() else None
        part = restricted(trials, kept)
        link = stability_link(part, stability[kept], scores, seed=seed)
    return Links(interp, link)


def of_latents(rows: pd.DataFrame, trials: Trials, name: str) -> Array:
    """Return a latent's property, shape (n_latents,); NaN where there is none."""
    found = np.full(trials.n_latents, math.nan)
    found[trials.latent] = rows[name].to_numpy(dtype=np.float64)
    return found


def figure_of(found: Figure | None) -> Interval | None:
    """Return a figure's interval, None if it has none."""
    return None if found is None else found.interval
