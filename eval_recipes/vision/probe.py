"""Linear probe on codes that are cut to their largest entries."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from saereg_plugin.metrics import Codes

CUTS = 32
"""Largest k' of the curve."""


class ProbeAnswers(NamedTuple):
    """Answers on the test images."""

    images: NDArray[np.int64]
    """Numbers of the test images."""
    right: NDArray[np.bool_]
    """Whether a code cut to k' entries gives the class, [32, images]."""
    right_whole: NDArray[np.bool_]
    """The same of whole codes, [images]."""
    majority: NDArray[np.bool_]
    """Whether an image is of the class that most training images have."""
    converged: bool


def probe_answers(
    codes: Codes, labels: Tensor, *, first: Tensor, iterations: int
) -> ProbeAnswers:
    """
    Fit a probe on the whole codes of the first half; answer the other from cut codes.

    A logistic regression of scikit-learn with its own penalty (C = 1), on latents divided
    by their largest activation in training.

    Args:
        codes: of all images.
        labels: int64 [images].
        first: bool [images], which are in the first half.
        iterations: of the solver, at most.

    Raises:
        ValueError: if the first half is of one class.
    """
    classes, scale = labels.numpy(), _scale(codes, first)
    fit, test = np.flatnonzero(first.numpy()), np.flatnonzero(~first.numpy())
    matrix = csr_matrix(
        (
            codes.values.double().numpy() / scale[codes.latents.numpy()],
            codes.latents.numpy(),
            codes.selected.row_offsets.numpy(),
        ),
        shape=(len(codes), codes.d_sae),
    )
    probe, converged = _fitted(matrix[fit], classes[fit], iterations)
    values, counts = np.unique(classes[fit], return_counts=True)
    scores = _cut_scores(codes, probe, scale)
    return ProbeAnswers(
        images=test,
        right=np.stack([probe.classes_[s[test].argmax(1)] for s in scores])
        == classes[test],
        right_whole=probe.predict(matrix[test]) == classes[test],
        majority=classes[test] == values[counts.argmax()],
        converged=converged,
    )


def _scale(codes: Codes, first: Tensor) -> NDArray[np.float64]:
    """Return each latent's largest absolute activation in the first half, 1 if it has none."""
    scale = np.zeros(codes.d_sae)
    own = codes.where(first[codes.images])
    np.maximum.at(scale, own.latents.numpy(), own.values.abs().double().numpy())
    return np.where(scale > 0, scale, 1.0)


def _fitted(
    matrix: Any, classes: NDArray[np.int64], iterations: int
) -> tuple[Any, bool]:
    """Return the probe, and whether its solver ended before the last iteration."""
    probe = LogisticRegression(max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(matrix, classes)
    return probe, bool(np.max(probe.n_iter_) < iterations)


def _cut_scores(
    codes: Codes, probe: Any, scale: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Return the scores of all images [images, classes] for k' = 1 to 32."""
    weights, bias = probe.coef_, probe.intercept_
    if len(weights) == 1:
        # of two classes scikit-learn keeps one row
        weights, bias = np.vstack([-weights, weights]), np.array([-bias[0], bias[0]])
    scores = np.tile(bias, (len(codes), 1))
    ranks = codes.ranks.numpy()
    images, latents = codes.images.numpy(), codes.latents.numpy()
    values = codes.values.double().numpy() / scale[latents]
    found: list[NDArray[np.float64]] = []
    for rank in range(CUTS):
        own = ranks == rank
        # an image has one entry of a rank
        scores[images[own]] += values[own, None] * weights.T[latents[own]]
        found.append(scores.copy())
    return found


def curve_area(right: NDArray[np.bool_]) -> float:
    """
    Return the area under the accuracy over k' in [1, 32], divided by 32.

    Args:
        right: [32, images]; NaN without images.

    >>> curve_area(np.ones((32, 4), dtype=bool))
    0.96875
    """
    if right.shape[1] == 0:
        return float("nan")
    accuracy = right.mean(1)
    return float(((accuracy[1:] + accuracy[:-1]) / 2).sum()) / CUTS
