"""Held-out scores of features, their differences, and chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval_recipes.data_order.features import KINDS, Features, Kind
from eval_recipes.data_order.metrics import (
    MAJORITY,
    METRICS,
    metric_values,
    scores_of,
)
from eval_recipes.data_order.probes import Predictions, Probe, Target, shuffled
from eval_recipes.data_order.ridge import Index
from eval_recipes.statistics.interval import Array, Interval, bootstrap_together

CONSTANT = "all predictions are equal"

NAMES: dict[str, str] = {
    "sae": "the SAE",
    "raw": "raw activations",
    "tfidf": "tf-idf",
    "length": "the length alone",
}
"""Words for each kind of features."""


@dataclass(frozen=True)
class Score:
    """
    Held-out score of one kind of features.

    Attributes:
        target: "difficulty", "quality" or "clusters".
        metric: its name.
        features: the kind.
        held_out: the score, with an interval over groups of texts.
        null_mean: mean score after the labels were shuffled, None without shuffles.
        null_high: score that 5 % of the shuffles exceed.
        p_value: share of shuffles with as high a score, the real labels counted as one.
        majority: score of a prediction that is the same for all texts.
    """

    target: str
    metric: str
    features: str
    held_out: Interval
    null_mean: float | None
    null_high: float | None
    p_value: float | None
    majority: float


@dataclass(frozen=True)
class Difference:
    """Score of the SAE minus that of other features, on the same texts and resamples."""

    target: str
    metric: str
    features: str
    value: Interval


@dataclass(frozen=True)
class TargetScores:
    """Scores of one target, and the probes behind them."""

    scores: list[Score]
    differences: list[Difference]
    probes: dict[Kind, tuple[Probe, Predictions]]


def with_null(
    target: str,
    metric: str,
    features: str,
    held_out: Interval,
    null: Sequence[float],
) -> Score:
    """Return a score next to what shuffled labels reach."""
    majority = MAJORITY.get(metric, 0.0)
    draws = np.asarray(null, dtype=np.float64)
    if not len(draws):
        return Score(target, metric, features, held_out, None, None, None, majority)
    # rounding must not tell equal scores apart
    reached = int((draws >= held_out.value - 1e-9).sum())
    return Score(
        target=target,
        metric=metric,
        features=features,
        held_out=held_out,
        null_mean=float(draws.mean()),
        null_high=float(np.quantile(draws, 0.95)),
        p_value=(1 + reached) / (1 + len(draws)),
        majority=majority,
    )


def score_target(
    features: Features,
    target: Target,
    labelled: Index,
    y: Array,
    groups: Index,
    *,
    permutations: int,
    seed: int,
    progress: Callable[[str], None],
) -> TargetScores:
    """
    Score every kind of features on the same folds.

    Args:
        features: of all texts.
        target: what is predicted.
        labelled: numbers of the labelled texts.
        y: their labels.
        groups: group of each labelled text.
        permutations: of the labels; each repeats all fits.
        seed: of folds, permutations and resamples.
        progress: called with a line before each kind.
    """
    probes: dict[Kind, tuple[Probe, Predictions]] = {}
    null: dict[Kind, list[dict[str, float]]] = {}
    for kind in KINDS:
        progress(f"Predicting {target} from {NAMES[kind]}.")
        probe = Probe(features, kind, target, labelled, y, groups, seed=seed)
        probes[kind] = (probe, probe.held_out())
        # the same shuffles for every kind
        generator = np.random.default_rng(seed)
        others = [shuffled(y, groups, generator) for _ in range(permutations)]
        null[kind] = [scores_of(target, probe.held_out(one), one) for one in others]
    predicted: dict[Kind, Predictions] = {
        kind: predictions for kind, (_, predictions) in probes.items()
    }
    scores: list[Score] = []
    differences: list[Difference] = []
    for metric in METRICS[target]:
        found = _intervals(metric, predicted, y, groups, seed)
        for kind in KINDS:
            draws = [draw[metric] for draw in null[kind]]
            scores.append(with_null(target, metric, kind, found[kind], draws))
        for kind in KINDS[1:]:
            value = found[f"sae-{kind}"]
            differences.append(Difference(target, metric, kind, value))
    return TargetScores(scores, differences, probes)


def group_numbers(groups: Index) -> tuple[Index, int]:
    """Return groups as numbers from 0 on, and how many there are."""
    numbers = np.unique(groups, return_inverse=True)[1]
    return numbers.astype(np.intp), int(numbers.max()) + 1


def _intervals(
    metric: str,
    predicted: Mapping[Kind, Predictions],
    y: Array,
    groups: Index,
    seed: int,
) -> dict[str, Interval]:
    """Return scores by kind and differences by "sae-kind"; whole groups are drawn."""
    numbers, n = group_numbers(groups)

    def of(kind: Kind) -> Callable[[Array], Array]:
        return lambda weights: metric_values(
            metric, predicted[kind], y, weights[:, numbers]
        )

    def minus(kind: Kind) -> Callable[[Array], Array]:
        own, other = of("sae"), of(kind)
        return lambda weights: own(weights) - other(weights)

    statistics = {str(kind): of(kind) for kind in KINDS}
    statistics |= {f"sae-{kind}": minus(kind) for kind in KINDS[1:]}
    found = bootstrap_together(statistics, n, seed=seed)
    for kind, predictions in predicted.items():
        if np.ptp(predictions.centred) == 0:
            found[kind] = Interval(found[kind].value, None, None, n, CONSTANT)
    return found
