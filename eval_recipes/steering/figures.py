"""Figures of steering from its table of texts: rates, controls, fluency, associations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from eval_recipes.statistics import Interval
from eval_recipes.steering.association import (
    Association,
    Figure,
    StabilityLink,
    associate,
    restricted,
    stability_link,
)
from eval_recipes.steering.clustered import (
    Array,
    Trials,
    make_trials,
    over_latents,
    paired_difference,
    success_rate,
)

LATENT = ["sae", "latent"]
"""What tells latents apart; ``sae`` is missing in the table of a single SAE."""


@dataclass(frozen=True)
class Rates:
    """
    Success at one strength in the eyes of one judge, controls beside it.

    Attributes:
        success: share of steered pairs that succeed.
        fluent: share that succeed without losing more fluency than allowed.
        unsteered: the same for pairs of unsteered texts with independent random numbers.
        random: the same for a random direction, judged by the latent's explanation.
        over_unsteered: success less unsteered, on latents that have both.
        over_random: success less random, on latents that have both.
        n_pairs: steered pairs with a verdict.
        n_without_verdict: steered pairs without.
    """

    success: Interval | None
    fluent: Interval | None
    unsteered: Interval | None
    random: Interval | None
    over_unsteered: Interval | None
    over_random: Interval | None
    n_pairs: int
    n_without_verdict: int


def rates(
    texts: pd.DataFrame, judge: str, amount: float, *, max_ratio: float, seed: int
) -> Rates:
    """
    Return the success rates at one strength.

    Args:
        texts: ``texts.read_texts`` of one SAE, or of several with a column ``sae``.
        judge: whose verdicts.
        amount: strength, in the units of the mode.
        max_ratio: steered over unsteered perplexity up to which a text is fluent.
        seed: of the resamples.
    """
    rows = arm(texts, judge, "steered", amount)
    judged = with_verdict(rows, judge)
    steered = trials_of(judged, judge)
    fluent = Trials(steered.success & is_fluent(judged, max_ratio), steered.latent)
    controls = {
        "unsteered": with_verdict(arm(texts, judge, "unsteered", None), judge),
        "random": with_verdict(arm(texts, judge, "random", amount), judge),
    }

    def over(control: pd.DataFrame) -> Interval | None:
        both = [trials_of(part, judge) for part in _common(judged, control)]
        return paired_difference(both[0], both[1], seed=seed)

    def rate(trials: Trials) -> Interval | None:
        return success_rate(trials, seed=seed)

    return Rates(
        success=rate(steered),
        fluent=rate(fluent),
        unsteered=rate(trials_of(controls["unsteered"], judge)),
        random=rate(trials_of(controls["random"], judge)),
        over_unsteered=over(controls["unsteered"]),
        over_random=over(controls["random"]),
        n_pairs=len(judged),
        n_without_verdict=len(rows) - len(judged),
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
    """Return the rows that the judge has a verdict of."""
    return rows.loc[rows[f"{judge}_success"].notna()]


def keys_of(rows: pd.DataFrame) -> list[Any]:
    """Return what tells the latent of each row from others."""
    present = [name for name in LATENT if name in rows.columns]
    return list(rows[present].itertuples(index=False, name=None))


def trials_of(rows: pd.DataFrame, judge: str) -> Trials:
    """Return outcomes and latents of rows that all have a verdict."""
    return make_trials(rows[f"{judge}_success"].astype(bool).tolist(), keys_of(rows))


def is_fluent(rows: pd.DataFrame, max_ratio: float) -> Any:
    """Return which texts lose no more fluency than allowed; one without tokens is not fluent."""
    ratio = rows["perplexity"] / rows["original_perplexity"]
    return (ratio <= max_ratio).to_numpy(dtype=bool)


def fluency_loss(
    texts: pd.DataFrame, name: str, amount: float, *, seed: int
) -> Interval | None:
    """
    Return the mean of ln(perplexity / original perplexity) in an arm, in nats a token.

    Interval: bootstrap over latents. None if no text has tokens.
    """
    rows = texts.loc[(texts["arm"] == name) & (texts["amount"] == amount)]
    loss = np.log(rows["perplexity"] / rows["original_perplexity"])
    rows = rows.loc[loss.notna()]
    if rows.empty:
        return None
    found = make_trials([True] * len(rows), keys_of(rows))
    size = found.n_latents
    values = loss.loc[rows.index].to_numpy(dtype=np.float64)
    total = np.bincount(found.latent, weights=values, minlength=size)
    counts = np.bincount(found.latent, minlength=size).astype(np.float64)
    if size == 1:
        return Interval(float(values.mean()), None, None, 1, "one latent has no spread")

    def mean(w: Array) -> Array:
        return (w @ total) / (w @ counts)

    return over_latents(mean, size, seed=seed)


@dataclass(frozen=True)
class Links:
    """What success goes with, over latents."""

    interp: Association | None
    """With the auto-interp score; None if no latent has one."""
    stability: StabilityLink | None
    """With stability across seeds; None if it is not known."""


def links(texts: pd.DataFrame, judge: str, amount: float, *, seed: int) -> Links:
    """
    Relate success at one strength to interp scores and stability.

    Latents without a score are left out of its figures, those without stability of the other.
    """
    rows = with_verdict(arm(texts, judge, "steered", amount), judge)
    trials = trials_of(rows, judge)
    if not trials.success.size:
        return Links(None, None)
    score, stability = (
        of_latents(rows, trials, name) for name in ("interp_score", "stability")
    )
    interp = link = None
    if np.isfinite(score).any():
        part, kept = restricted(trials, np.isfinite(score))
        interp = associate(part, score[kept], seed=seed)
    if np.isfinite(stability).any():
        part, kept = restricted(trials, np.isfinite(stability))
        scores = score[kept] if np.isfinite(score[kept]).any() else None
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


def amounts_of(texts: pd.DataFrame) -> list[float]:
    """Return the strengths of a table of texts, in their order."""
    given = texts.loc[texts["arm"] == "steered", "amount"]
    return [float(amount) for amount in dict.fromkeys(given)]


def _common(a: pd.DataFrame, b: pd.DataFrame) -> Sequence[pd.DataFrame]:
    """Return the rows of latents that are in both, latents in the same order."""
    shared = reduce(set.intersection, (set(keys_of(rows)) for rows in (a, b)))
    found: list[pd.DataFrame] = []
    for rows in (a, b):
        kept = rows.loc[[key in shared for key in keys_of(rows)]]
        present = [name for name in LATENT if name in rows.columns]
        found.append(kept.sort_values(present, kind="stable"))
    return found
