"""Latents that separate two sets of vectors: AUROC, logistic regression."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from eval_recipes.select.halves import FEWEST_INPUTS, halves
from eval_recipes.statistics.auroc import auroc, excess_auroc
from eval_recipes.statistics.interval import Array, Interval
from saereg_plugin.checks import MAX_SEED, require_choice, require_count
from saereg_plugin.errors import InputError

Method = Literal["auroc", "logistic"]
Sides = Literal["first", "both"]
"""``first``: latents that are larger on the first set; ``both``: those of either direction."""

Labels = NDArray[np.bool_]

_MAX_LATENTS = 1 << 27
_MAX_PERMUTATIONS = 100_000


@dataclass(frozen=True)
class ChosenLatent:
    """A latent that separates the sets."""

    latent: int
    score: float
    """AUROC - 1/2, or the coefficient; above 0 if the latent is larger on the first set."""
    selected: float
    """AUROC on the inputs that it was chosen by: too high, since it is the best of many."""
    measured: Interval
    """AUROC on the other inputs, P(first > second): an unbiased figure."""
    p_value: float | None
    """Chance that the strongest of all latents is as strong if labels mean nothing."""

    @property
    def sign(self) -> int:
        """1 if the latent is larger on the first set, else -1."""
        return 1 if self.score > 0 else -1


@dataclass(frozen=True)
class Selection:
    """Chosen latents, strongest first, and how they were chosen."""

    method: Method
    sides: Sides
    n_first: int
    n_second: int
    seed: int
    permutations: int
    latents: tuple[ChosenLatent, ...]
    together: Interval
    """AUROC of a logistic regression on the chosen latents, on the other inputs."""
    null_score: float | None
    """Score that the strongest latent exceeds in 5 % of permutations of the labels."""

    @property
    def ids(self) -> list[int]:
        """Ids of the latents, strongest first."""
        return [one.latent for one in self.latents]

    @property
    def signs(self) -> list[float]:
        """1 for each latent that is larger on the first set, -1 for the others."""
        return [float(one.sign) for one in self.latents]

    @property
    def larger_on_first(self) -> list[int]:
        """Ids of the latents that are larger on the first set, strongest first."""
        return [one.latent for one in self.latents if one.sign > 0]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; ``latents`` are ids, the rows of the table are ``figures``."""
        table = dataclasses.asdict(self) | {"together": self.together._asdict()}
        rows: list[dict[str, Any]] = [
            dataclasses.asdict(one) | {"measured": one.measured._asdict()}
            for one in self.latents
        ]
        return table | {"latents": self.ids, "figures": rows}


def separate(
    first: Array,
    second: Array,
    *,
    method: Method = "auroc",
    n: int = 25,
    sides: Sides = "both",
    permutations: int = 100,
    seed: int = 0,
) -> Selection:
    """
    Choose latents that separate two sets of input vectors (inputs, d_sae).

    Half of each set chooses, the other half measures. ``auroc`` ranks latents one by one;
    ``logistic`` by the size of their coefficient in one regression on all latents, each divided
    by its standard deviation (inverse penalty C = 1, both sets of the same weight).
    ``permutations`` of the labels of the choosing half give p-values, corrected for the choice
    of the strongest of all latents.

    Returns:
        At most ``n`` latents: those without a score are left out.

    Raises:
        InputError: for an unknown method, too few inputs, or vectors of two widths.
    """
    _check(first, second, method, n, sides, permutations, seed)
    sets = _Sets.split(first, second, seed)
    scores = _SCORES[method](sets.x, sets.labels[None])[0]
    null = _null(method, sides, sets, permutations, seed)
    strength = _strength(scores, sides)
    order = np.lexsort((np.arange(len(scores)), -strength))[:n]
    order = order[strength[order] > 0]
    p_values = [_p_value(float(strength[j]), null) for j in order]
    return Selection(
        method=method,
        sides=sides,
        n_first=len(first),
        n_second=len(second),
        seed=seed,
        permutations=permutations,
        latents=_described(sets, order, scores, p_values),
        together=_together(sets.of(order)),
        null_score=float(np.quantile(null, 0.95)) if len(null) else None,
    )


@dataclass(frozen=True)
class _Sets:
    """
    Vectors that choose latents, and vectors that measure them.

    Attributes:
        x: of the choosing inputs, (inputs, d).
        labels: whether each of these is of the first set.
        first: of the measuring inputs of the first set.
        second: of those of the second set.
    """

    x: Array
    labels: Labels
    first: Array
    second: Array

    @classmethod
    def split(cls, first: Array, second: Array, seed: int) -> _Sets:
        a, b = (halves(len(vectors), seed=seed) for vectors in (first, second))
        x = np.concatenate([first[a.select], second[b.select]])
        labels = np.arange(len(x)) < len(a.select)
        return cls(x, labels, first[a.measure], second[b.measure])

    def of(self, latents: NDArray[np.intp]) -> _Sets:
        """Return the columns of some latents."""
        parts = (values[:, latents] for values in (self.x, self.first, self.second))
        x, first, second = parts
        return _Sets(x, self.labels, first, second)


def _described(
    sets: _Sets,
    order: NDArray[np.intp],
    scores: Array,
    p_values: Sequence[float | None],
) -> tuple[ChosenLatent, ...]:
    """Return the chosen latents with their figures on either half."""
    selected = 0.5 + excess_auroc(sets.x[:, order], sets.labels[None])[0]
    return tuple(
        ChosenLatent(
            latent=int(j),
            score=float(scores[j]),
            selected=float(alone),
            measured=auroc(sets.first[:, j], sets.second[:, j]),
            p_value=p,
        )
        for j, alone, p in zip(order, selected, p_values, strict=True)
    )


def _check(
    first: Array,
    second: Array,
    method: str,
    n: int,
    sides: str,
    permutations: int,
    seed: int,
) -> None:
    require_choice("method", method, get_args(Method))
    require_choice("sides", sides, get_args(Sides))
    require_count("n", n, most=_MAX_LATENTS)
    require_count("permutations", permutations, least=0, most=_MAX_PERMUTATIONS)
    require_count("seed", seed, least=0, most=MAX_SEED)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise InputError(
            f"The sets have shapes {first.shape} and {second.shape}; expected vectors "
            "(inputs, d_sae) of one width."
        )
    if min(len(first), len(second)) < FEWEST_INPUTS:
        raise InputError(
            f"The sets have {len(first)} and {len(second)} inputs; expected {FEWEST_INPUTS} of "
            "each or more: half of them choose latents, half of them measure."
        )


def _by_regression(x: Array, labels: Labels) -> Array:
    """Return coefficients (sets, d) of columns in standard deviations; 0 where none varies."""
    spread = x.std(0)
    varies = spread > 0
    coefficients = np.zeros((len(labels), x.shape[1]))
    if varies.any():
        scaled = (x[:, varies] - x[:, varies].mean(0)) / spread[varies]
        for row, of_set in zip(coefficients, labels, strict=True):
            row[varies] = regression().fit(scaled, of_set).coef_[0]
    return coefficients


def regression() -> LogisticRegression:
    """Return an unfitted logistic regression; both sets have the same weight."""
    return LogisticRegression(class_weight="balanced", max_iter=1000)


_SCORES: dict[str, Callable[[Array, Labels], Array]] = {
    "auroc": excess_auroc,
    "logistic": _by_regression,
}


def _strength(scores: Array, sides: Sides) -> Array:
    return np.abs(scores) if sides == "both" else scores


def _null(
    method: Method, sides: Sides, sets: _Sets, permutations: int, seed: int
) -> Array:
    """Return the strongest latent's strength under each permutation of the labels."""
    if not permutations:
        return np.zeros(0)
    generator = np.random.default_rng(seed)
    shuffled = np.stack(
        [generator.permutation(sets.labels) for _ in range(permutations)]
    )
    return _strength(_SCORES[method](sets.x, shuffled), sides).max(1)


def _p_value(strength: float, null: Array) -> float | None:
    if not len(null):
        return None
    # rounding must not tell equal strengths apart
    return float((1 + (null >= strength - 1e-9).sum()) / (1 + len(null)))


def _together(sets: _Sets) -> Interval:
    """Return the AUROC on the measuring inputs of a regression on the choosing ones."""
    if not sets.x.shape[1]:
        n = len(sets.first) + len(sets.second)
        return Interval(0.5, None, None, n, "no latent separates the sets")
    spread = np.where(sets.x.std(0) > 0, sets.x.std(0), 1.0)
    model: Any = regression().fit(sets.x / spread, sets.labels)
    a, b = (
        model.decision_function(vectors / spread)
        for vectors in (sets.first, sets.second)
    )
    return auroc(a, b)
