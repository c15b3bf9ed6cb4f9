"""Figures of dated facts: paired shifts, their intervals, random controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sae_bench.evals.base_eval_output import BaseMetrics

from eval_recipes.results.metrics import flat, metric, metric_class, value
from eval_recipes.statistics.interval import (
    NO_VARIATION,
    Array,
    Interval,
    percentile_interval,
    resampled_weights,
    unseen,
)
from eval_recipes.steering.facts.measure import Measurement, Pushed

N_RESAMPLES = 2000
ONE_QUESTION = "one question has no spread"
ONE_CONTROL = "one control has no spread"

_QUESTIONS = "Questions behind the figure"
_SHIFT = "Look-ahead Shift"
_P = "Share of controls, this direction counted, whose mean shift is at least as large in size"


@metric_class
class FactsMetrics(BaseMetrics):
    """Dated facts; null without. Scores: log-probability of the later holder less that of the holder at the date."""

    difference = metric(
        "Later over Holder",
        "Mean difference of the scores before steering, in nats; above 0 the model prefers the later holder",
        of=_QUESTIONS,
    )
    prefers_later = metric(
        "Prefers the Later Holder",
        "Share of facts with a difference above 0 before steering",
        of=_QUESTIONS,
    )
    prefers_later_steered = metric(
        "Prefers the Later Holder, Steered",
        "The same share with the steered latents together added",
        of=_QUESTIONS,
    )
    date_effect = metric(
        "Effect of the Date",
        "Mean difference at the later date less that at the date, nothing added; 0 if the model ignores dates",
        of=_QUESTIONS,
    )
    shift = metric(
        _SHIFT,
        "Mean change of the difference with the steered latents together added, paired by fact, in nats",
        display=True,
        of=_QUESTIONS,
    )
    shift_random = metric(
        f"{_SHIFT}, Random Direction",
        "The same for random directions of the same norm; interval over questions and directions",
        display=True,
        of="Directions behind the figure",
    )
    over_random = metric(
        f"{_SHIFT} over Random",
        "Shift less the mean shift of random directions, paired by fact; interval over questions and directions",
        of=_QUESTIONS,
    )
    p_random: float | None = value(f"{_SHIFT} (p, Random Direction)", _P)
    shift_random_latents = metric(
        f"{_SHIFT}, Random Latents",
        "The same for as many random alive latents together; interval over questions and draws",
        of="Draws behind the figure",
    )
    over_random_latents = metric(
        f"{_SHIFT} over Random Latents",
        "Shift less the mean shift of random latents, paired by fact; interval over questions and draws",
        of=_QUESTIONS,
    )
    p_random_latents: float | None = value(f"{_SHIFT} (p, Random Latents)", _P)
    shift_mean_difference = metric(
        f"{_SHIFT}, Mean Difference",
        "The same for the difference of mean residual vectors of the contrast's texts; null without contrast",
        of=_QUESTIONS,
    )
    p_random_mean_difference: float | None = value(
        f"{_SHIFT} of the Mean Difference (p, Random Direction)", _P
    )
    name_change = metric(
        "Change of Both Names",
        "Mean change of both holders' scores with the steered latents together added, in nats",
        of=_QUESTIONS,
    )
    name_change_random = metric(
        "Change of Both Names, Random Direction",
        "The same for random directions of the same norm",
        of="Directions behind the figure",
    )


INTERVALS = (
    *("difference", "prefers_later", "prefers_later_steered", "date_effect", "shift"),
    *("shift_random", "over_random", "shift_random_latents", "over_random_latents"),
    *("shift_mean_difference", "name_change", "name_change_random"),
)
P_VALUES = ("p_random", "p_random_latents", "p_random_mean_difference")


def facts_fields(found: Measurement | None, amount: float, seed: int) -> dict[str, Any]:
    """Return the fields of ``FactsMetrics`` at one strength; all null without facts."""
    intervals: dict[str, Interval | None] = dict.fromkeys(INTERVALS)
    p_values: dict[str, float | None] = dict.fromkeys(P_VALUES)
    if found is not None:
        over = _Resamples.of([fact.template for fact in found.facts], seed)
        intervals |= _baseline(found, over, seed)
        (together,) = found.of(amount, "together")
        mine = _change(found, together)
        intervals |= {
            "prefers_later_steered": over.share(together.scores.difference > 0),
            "shift": over.mean(mine),
            "name_change": over.mean(_name_change(found, together)),
        }
        for arm in ("random", "random_latents"):
            null = found.of(amount, arm)
            if not null:
                continue
            shifts = np.stack([_change(found, one) for one in null])
            intervals |= {
                f"shift_{arm}": over.mean_of_controls(shifts, arm),
                f"over_{arm}": over.over_controls(mine, shifts, arm),
            }
            p_values[f"p_{arm}"] = p_value(mine, shifts)
            if arm == "random":
                both = np.stack([_name_change(found, one) for one in null])
                intervals["name_change_random"] = over.mean_of_controls(both, arm)
                for one in found.of(amount, "mean_difference"):
                    change = _change(found, one)
                    intervals["shift_mean_difference"] = over.mean(change)
                    p_values["p_random_mean_difference"] = p_value(change, shifts)
    return {**flat(intervals), **p_values}


def facts_summary(
    found: Measurement | None, amounts: Sequence[float], seed: int
) -> dict[str, Any] | None:
    """Return the figures and each latent's shift at every strength, as JSON; None without facts."""
    if found is None:
        return None
    return {
        "facts": len(found.facts),
        "questions": len({fact.template for fact in found.facts}),
        "amounts": [
            {
                "amount": amount,
                **facts_fields(found, amount, seed),
                "latents": latent_shifts(found, amount, seed),
            }
            for amount in amounts
        ],
    }


def latent_shifts(found: Measurement, amount: float, seed: int) -> list[dict[str, Any]]:
    """Return each latent's shift, its shift over random directions, and p, at one strength."""
    over = _Resamples.of([fact.template for fact in found.facts], seed)
    shifts = np.stack([_change(found, one) for one in found.of(amount, "random")])
    rows: list[dict[str, Any]] = []
    for one in found.of(amount, "latent"):
        mine = _change(found, one)
        figures = {
            "shift": over.mean(mine),
            "over_random": over.over_controls(mine, shifts, "random"),
        }
        rows.append(
            {"latent": one.number, **flat(figures), "p_random": p_value(mine, shifts)}
        )
    return rows


def p_value(mine: Array, controls: Array) -> float:
    """
    Return the two-sided share of controls that shift at least as far, the direction counted.

    Args:
        mine: change of each fact [fact].
        controls: the same of controls [control, fact].

    >>> p_value(np.array([2.0, 4.0]), np.array([[1.0, 1.0], [-3.0, -3.5], [0.0, 0.0]]))
    0.5
    """
    size = abs(float(mine.mean()))
    far = np.abs(controls.mean(1)) >= size - 1e-12
    return (1 + int(far.sum())) / (1 + len(far))


def _change(found: Measurement, one: Pushed) -> Array:
    """Return the change of each fact's difference [fact]."""
    return one.scores.difference - found.before.difference


def _name_change(found: Measurement, one: Pushed) -> Array:
    """Return the mean change of both names' scores [fact]."""
    before, after = found.before, one.scores
    return ((after.holder - before.holder) + (after.later - before.later)) / 2


def _baseline(
    found: Measurement, over: _Resamples, seed: int
) -> dict[str, Interval | None]:
    before = found.before.difference
    effect = None
    if found.at_later_date is not None:
        templates = [found.facts[place].template for place in found.dated]
        change = found.at_later_date.difference - before[list(found.dated)]
        effect = _Resamples.of(templates, seed).mean(change)
    return {
        "difference": over.mean(before),
        "prefers_later": over.share(before > 0),
        "date_effect": effect,
    }


@dataclass(frozen=True)
class _Resamples:
    """Bootstrap resamples of questions; facts that ask one question are drawn together."""

    weights: Array
    """How often each fact counts [resample, fact]."""
    n: int
    """Different questions."""
    seed: int

    @classmethod
    def of(cls, templates: Sequence[str], seed: int) -> _Resamples:
        names = list(dict.fromkeys(templates))
        place = [names.index(template) for template in templates]
        return cls(_weights(len(names), seed)[:, place], len(names), seed)

    def mean(self, values: Array) -> Interval:
        """Return the mean of a value of each fact [fact]."""
        mean = float(values.mean())
        reason = self._reason(values)
        if reason is not None:
            return Interval(mean, None, None, self.n, reason)
        draws = self.weights @ values / self.weights.sum(1)
        return percentile_interval(mean, draws, self.n)

    def share(self, holds: Any) -> Interval:
        """Return the share of facts for which something holds [fact]."""
        values = np.asarray(holds, dtype=np.float64)
        found = self.mean(values)
        if found.reason == NO_VARIATION:
            # resamples cannot move a share of 0 or 1
            below, above = unseen([(1.0, found.value, 1.0, self.n)])
            return Interval(
                found.value, found.value - below, found.value + above, self.n
            )
        return found

    def mean_of_controls(self, values: Array, arm: str) -> Interval:
        """Return the mean over controls and facts [control, fact], both drawn."""
        mean, n = float(values.mean()), len(values)
        reason = ONE_CONTROL if n == 1 else self._reason(values)
        if reason is not None:
            return Interval(mean, None, None, n, reason)
        return percentile_interval(mean, self._draws(values, arm), n)

    def over_controls(self, mine: Array, controls: Array, arm: str) -> Interval:
        """Return the mean of a direction's values less its controls', paired by fact."""
        return self.mean_of_controls(mine - controls, arm)._replace(n=self.n)

    def _draws(self, values: Array, arm: str) -> Array:
        # direction's and controls' arms are drawn apart from the questions
        drawn = _weights(len(values), self.seed + (1 if arm == "random" else 2))
        total = np.einsum("bc,cf,bf->b", drawn, values, self.weights, optimize=True)
        return total / (drawn.sum(1) * self.weights.sum(1))

    def _reason(self, values: Array) -> str | None:
        if self.n == 1:
            return ONE_QUESTION
        return NO_VARIATION if np.ptp(values) == 0 else None


def _weights(n: int, seed: int) -> Array:
    return np.concatenate(list(resampled_weights(n, resamples=N_RESAMPLES, seed=seed)))
