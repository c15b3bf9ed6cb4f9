"""Held-out AUROC of latents and of probes between two sets of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from eval_recipes.select.halves import halves
from eval_recipes.select.separation import Sides, regression
from eval_recipes.statistics.auroc import (
    NO_VARIANCE,
    excess_auroc,
    logit_interval,
    placements,
)
from eval_recipes.statistics.interval import Array, Interval

Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class Half:
    """
    Texts that choose when the others measure, and measure when the others choose.

    Attributes:
        texts: their rows; those of the first set come first.
        n_first: number of those.
        labels: whether each text is of the first set, [1 + permutations, texts]; row 0 is true,
            the others are permuted.
    """

    texts: NDArray[np.intp]
    n_first: int
    labels: Labels

    @property
    def n_second(self) -> int:
        """Number of texts of the second set."""
        return len(self.texts) - self.n_first


TextHalves = tuple[Half, Half]


def split_texts(
    n_first: int, n_second: int, *, permutations: int, seed: int
) -> TextHalves:
    """
    Split both sets at random; permute the labels within each half.

    Rows of the second set follow those of the first. All SAEs share the halves and the
    permutations, so that their scores are paired.

    Raises:
        ValueError: for fewer than 4 texts of a set.
    """
    a, b = (halves(n, seed=seed) for n in (n_first, n_second))
    generator = np.random.default_rng(seed)
    found: list[Half] = []
    for one, other in ((a.select, b.select), (a.measure, b.measure)):
        texts = np.concatenate([one, n_first + other])
        true = np.arange(len(texts)) < len(one)
        permuted = [generator.permutation(true) for _ in range(permutations)]
        found.append(Half(texts, len(one), np.stack([true, *permuted])))
    return found[0], found[1]


@dataclass(frozen=True)
class Score:
    """
    An AUROC between two sets of texts, each text measured by what the other half chose.

    Attributes:
        first: for each half, the share of texts of the second set below each of the first.
        second: for each half, the share of texts of the first set above each of the second.
        null: the same score with permuted labels, [permutations].
        chosen: for each half, the latents that it chose, best first; none for a probe.
        signs: their directions, 1 if larger on the first set.
    """

    first: tuple[Array, Array]
    second: tuple[Array, Array]
    null: Array
    chosen: tuple[NDArray[np.intp], ...] = ()
    signs: tuple[Array, ...] = ()

    @property
    def n(self) -> int:
        """Number of texts."""
        return sum(len(part) for part in (*self.first, *self.second))

    @property
    def interval(self) -> Interval:
        """
        The mean of the AUROC of both halves, with DeLong's interval over texts.

        Normal on the logit scale; what was chosen is held fixed.
        """
        value = float(np.mean([part.mean() for part in self.first]))
        return logit_interval(value, _variance(self.first, self.second), self.n)

    def minus(self, other: Score) -> Interval:
        """Return the difference from another score of the same texts, paired by text."""
        first, second = (
            tuple(a - b for a, b in zip(own, its, strict=True))
            for own, its in ((self.first, other.first), (self.second, other.second))
        )
        value = float(np.mean([part.mean() for part in first]))
        variance = _variance(first, second)
        if variance <= 1e-15:
            return Interval(value, None, None, self.n, NO_VARIANCE)
        half = float(norm.ppf(0.975) * np.sqrt(variance))
        return Interval(value, value - half, value + half, self.n)

    @property
    def null_95(self) -> float | None:
        """What 5 % of the permutations reach."""
        return float(np.quantile(self.null, 0.95)) if len(self.null) else None

    @property
    def p_value(self) -> float | None:
        """Chance of a score as high if labels mean nothing."""
        return p_value(self.interval.value, self.null)


def p_value(value: float, null: Array) -> float | None:
    """Return the share of permutations that reach a value, the true labels counted as one."""
    if not len(null):
        return None
    # rounding must not tell equal scores apart
    return float((1 + (null >= value - 1e-9).sum()) / (1 + len(null)))


def _variance(first: tuple[Array, ...], second: tuple[Array, ...]) -> float:
    """Return DeLong's variance of the mean over the halves, whose texts are different."""
    parts = (*first, *second)
    return sum(float(part.var(ddof=1)) / len(part) for part in parts) / len(first) ** 2


def score_latents(
    shares: Array, parts: TextHalves, *, n_latents: int, sides: Sides
) -> Score:
    """
    Return the mean AUROC of the best latents, chosen by one half and measured on the other.

    Args:
        shares: share of each text's tokens on which each latent fires, [texts, d_sae].
        parts: the halves.
        n_latents: latents that each half chooses, at most d_sae.
        sides: ``first`` chooses by AUROC, ``both`` by its distance from 1/2.
    """
    # rounding must not order equal latents
    excess = [excess_auroc(shares[half.texts], half.labels).round(12) for half in parts]
    first: list[Array] = []
    second: list[Array] = []
    chosen: list[NDArray[np.intp]] = []
    signs: list[Array] = []
    nulls: list[Array] = []
    for own, other, half in zip(excess, excess[::-1], parts[::-1], strict=True):
        strength = np.abs(own) if sides == "both" else own
        best = np.argsort(-strength, axis=1, kind="stable")[:, :n_latents]
        # a latent of no direction counts as larger on the first set
        towards = np.where(np.take_along_axis(own, best, 1) < 0, -1.0, 1.0)
        if sides == "first":
            towards = np.ones_like(towards)
        measured = 0.5 + (towards * np.take_along_axis(other, best, 1)).mean(1)
        nulls.append(measured[1:])
        values = towards[0] * shares[half.texts][:, best[0]]
        above, below = placements(values[: half.n_first], values[half.n_first :])
        first.append(above.mean(1))
        second.append(below.mean(1))
        chosen.append(best[0])
        signs.append(towards[0])
    null = np.mean(nulls, axis=0)
    return Score(_pair(first), _pair(second), null, tuple(chosen), tuple(signs))


def score_probe(vectors: Array, parts: TextHalves) -> Score:
    """
    Return the AUROC of a logistic regression, fitted on one half and measured on the other.

    Columns of ``vectors`` [texts, d] are divided by their standard deviation on the fitted half;
    the inverse penalty is C = 1.
    """
    first: list[Array] = []
    second: list[Array] = []
    nulls: list[Array] = []
    for fitted, half in (parts, parts[::-1]):
        x, y = _rotated(vectors[fitted.texts], vectors[half.texts])
        values = np.stack([_decision(x, labels, y) for labels in fitted.labels])
        above, below = placements(values[0, : half.n_first], values[0, half.n_first :])
        first.append(above)
        second.append(below)
        pairs = zip(values[1:], half.labels[1:], strict=True)
        null = [excess_auroc(v[:, None], of[None])[0, 0] for v, of in pairs]
        nulls.append(0.5 + np.asarray(null))
    return Score(_pair(first), _pair(second), np.mean(nulls, axis=0))


def _pair(parts: list[Array]) -> tuple[Array, Array]:
    """Return the parts by the half that is measured: the second half came first."""
    return parts[1], parts[0]


def _rotated(x: Array, y: Array) -> tuple[Array, Array]:
    """
    Return both halves in the principal directions of the fitted one.

    The penalty does not see a rotation, and fits are faster with as many columns as texts.
    """
    spread = np.where(x.std(0) > 0, x.std(0), 1.0)
    centre = x.mean(0)
    x, y = (x - centre) / spread, (y - centre) / spread
    directions = np.linalg.svd(x, full_matrices=False)[2]
    return x @ directions.T, y @ directions.T


def _decision(x: Array, labels: Labels, y: Array) -> Array:
    model: Any = regression().fit(x, labels)
    return model.decision_function(y)
