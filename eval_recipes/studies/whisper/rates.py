"""Hallucination and word error rates, with intervals over groups of clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eval_recipes.statistics.interval import (
    N_RESAMPLES,
    Array,
    Interval,
    bootstrap,
    percentile_interval,
    resampled_weights,
)
from eval_recipes.statistics.seeds import bootstrap_mean_interval
from eval_recipes.studies.whisper.conditions import Condition
from eval_recipes.studies.whisper.measurement import THRESHOLD_SCORE, THRESHOLD_SILENCE

Rule = Literal["allowed", "forbidden"]
"""Whether the end may be the first token of a transcript."""

Rows = Sequence[dict[str, Any]]


def texts(rows: Rows, rule: Rule, *, thresholds: bool = False) -> Array:
    """
    Return whether each clip without speech has a text, shape (clips,).

    With ``thresholds`` a clip that Whisper's usual thresholds call silent has none.
    """
    return np.array(
        [
            bool(row["text"])
            and not (rule == "allowed" and row["ends_first"])
            and not (thresholds and _is_silent(row))
            for row in rows
        ],
        dtype=np.float64,
    )


def _is_silent(row: dict[str, Any]) -> bool:
    quiet = row["silence"] > THRESHOLD_SILENCE
    return quiet and row["log_probability"] < THRESHOLD_SCORE


def errors(rows: Rows, rule: Rule) -> tuple[Array, Array]:
    """Return wrong words and words of each prompt, (clips,) each; no text has all wrong."""
    empty = [rule == "allowed" and row["ends_first"] for row in rows]
    wrong = [
        row["words"] if none else row["errors"]
        for row, none in zip(rows, empty, strict=True)
    ]
    return np.array(wrong, dtype=float), np.array([row["words"] for row in rows], float)


@dataclass(frozen=True)
class Arm:
    """
    Conditions that are reported together: one edit with several SAEs or draws.

    Attributes:
        title: in the table.
        figures: what ``Measurement.figures`` returned, one entry or more.
    """

    title: str
    figures: tuple[dict[str, Any], ...]

    @property
    def conditions(self) -> list[Condition]:
        """The conditions."""
        return [Condition(**one["condition"]) for one in self.figures]

    @property
    def norm(self) -> float:
        """Mean length of what is added to a frame."""
        return float(np.mean([one["norm"] for one in self.figures]))

    def hallucinated(self, rule: Rule, *, thresholds: bool = False) -> Array:
        """Return the share of the conditions in which each clip has a text, (clips,)."""
        return np.mean(
            [texts(one["noise"], rule, thresholds=thresholds) for one in self.figures],
            axis=0,
        )

    def wrong_words(self, rule: Rule) -> tuple[Array, Array]:
        """Return the mean number of wrong words of each prompt, and its words."""
        found = [errors(one["speech"], rule) for one in self.figures]
        return np.mean([wrong for wrong, _ in found], axis=0), found[0][1]

    def groups(self, kind: Literal["noise", "speech"]) -> list[int]:
        """Return the number of each clip's group."""
        return [row["group"] for row in self.figures[0][kind]]

    def rate(self, rule: Rule, seed: int, *, thresholds: bool = False) -> Interval:
        """Return the hallucination rate; groups of clips are resampled."""
        share = self.hallucinated(rule, thresholds=thresholds)
        return _mean(share, self.groups("noise"), seed, caps=[1])

    def wer(self, rule: Rule, seed: int) -> Interval:
        """Return the word error rate; groups of prompts are resampled."""
        return _ratio(*self.wrong_words(rule), self.groups("speech"), seed)

    def members(self, rule: Rule) -> list[tuple[float, float]]:
        """Return hallucination and word error rate of each condition alone."""
        return [
            (float(alone.hallucinated(rule).mean()), alone.wer(rule, 0).value)
            for alone in (Arm(self.title, (one,)) for one in self.figures)
        ]


def rate_difference(arm: Arm, other: Arm, rule: Rule, seed: int) -> Interval:
    """Return hallucination rate less that of another arm, paired by clip."""
    change = arm.hallucinated(rule) - other.hallucinated(rule)
    return _mean(change, arm.groups("noise"), seed)


def difference_from_draws(arm: Arm, draws: Arm, rule: Rule, seed: int) -> Interval:
    """
    Return hallucination rate less the mean over random draws, paired by clip.

    Groups of clips are resampled, and draws: the interval says what other clips and other draws
    would give.
    """
    changes = arm.hallucinated(rule) - np.array(
        [texts(one["noise"], rule) for one in draws.figures]
    )
    groups = arm.groups("noise")
    sums = np.stack([_sums(change, groups) for change in changes])
    sizes = _sums(np.ones(len(groups)), groups)
    of_clips, of_draws = (
        np.concatenate([*resampled_weights(n, resamples=N_RESAMPLES, seed=seed + k)])
        for k, n in enumerate((len(sizes), len(changes)))
    )
    means = (of_clips @ sums.T * of_draws).mean(1) / (of_clips @ sizes)
    return percentile_interval(float(changes.mean()), means, len(sizes))


def wer_difference(arm: Arm, other: Arm, rule: Rule, seed: int) -> Interval:
    """Return word error rate less that of another arm, paired by prompt."""
    wrong, words = arm.wrong_words(rule)
    change = wrong - other.wrong_words(rule)[0]
    return _ratio(change, words, arm.groups("speech"), seed)


def _mean(
    values: Array, groups: Sequence[int], seed: int, caps: list[float] | None = None
) -> Interval:
    """Return the mean over clips; whole groups are resampled, and ``n`` counts them."""
    if values.min() == values.max():
        same = np.full(len(set(groups)), values[0])
        return bootstrap_mean_interval([same], caps=caps, seed=seed)
    return _ratio(values, np.ones(len(values)), groups, seed)


def _ratio(values: Array, sizes: Array, groups: Sequence[int], seed: int) -> Interval:
    """Return the sum of values over that of sizes; whole groups are resampled."""
    of_values, of_sizes = _sums(values, groups), _sums(sizes, groups)

    def statistic(weights: Array) -> Array:
        return (weights @ of_values) / (weights @ of_sizes)

    return bootstrap(statistic, len(of_sizes), seed=seed)


def _sums(values: Array, groups: Sequence[int]) -> Array:
    """Return the sum of each group's values, (groups,)."""
    _, places = np.unique(groups, return_inverse=True)
    return np.bincount(places, weights=values).astype(np.float64)
