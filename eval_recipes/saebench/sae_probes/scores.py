"""Probes on a split given by row numbers, and their scores with intervals."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from sae_probes.run_sae_evals import get_sorted_indices, mean_act_normalization
from sae_probes.utils_training import find_best_reg
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from eval_recipes.saebench.sae_probes.data import Rows, Split
from eval_recipes.statistics.contexts import N_RESAMPLES, Array, resampled_weights
from eval_recipes.statistics.interval import Interval, percentile_interval

# Latents held at once while encoding, as float32: 2^26 are 256 MiB.
_LATENT_VALUES = 1 << 26


class Predictions(NamedTuple):
    """What a probe said about the test texts of one set, shape (texts,) each."""

    labels: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    scores: Array


@contextmanager
def quiet_sklearn() -> Iterator[None]:
    """Silence a warning for each fit that an argument of upstream's is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'penalty' was deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Inconsistent values: penalty", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def encode(sae: SAE[Any], activations: Tensor) -> Tensor:
    """Return the latents of ``activations`` (rows, d_in), on the CPU in float32."""
    rows = max(1, min(128, _LATENT_VALUES // int(sae.cfg.d_sae)))
    with torch.inference_mode():
        parts = [
            sae.encode(batch.to(sae.device)).cpu().float()
            for batch in activations.split(rows)
        ]
    return torch.cat(parts)


def probe_latents(
    latents: Tensor,
    labels: Rows,
    split: Split,
    *,
    ks: Sequence[int],
    penalty: str,
    seed: int,
) -> dict[int, Predictions]:
    """
    Train upstream's probes on the k latents that tell the training classes best apart.

    The method of ``sae_probes.run_sae_evals.run_sae_eval``, on another split.
    """
    train, y_train = latents[split.train], torch.from_numpy(labels[split.train])
    ranked = get_sorted_indices(train, y_train, mean_act_normalization)
    return {
        k: _probe(
            train[:, ranked[:k]],
            labels[split.train],
            latents[split.test][:, ranked[:k]],
            labels[split.test],
            penalty=penalty,
            seed=seed,
        )
        for k in ks
    }


def probe_activations(
    activations: Tensor, labels: Rows, split: Split, *, seed: int
) -> Predictions:
    """Train upstream's baseline: logistic regression on the model's own activations."""
    return _probe(
        activations[split.train],
        labels[split.train],
        activations[split.test],
        labels[split.test],
        penalty="l2",
        seed=seed,
    )


def _probe(
    train: Tensor, y_train: Rows, test: Tensor, y_test: Rows, *, penalty: str, seed: int
) -> Predictions:
    with quiet_sklearn():
        found = find_best_reg(train, y_train, test, y_test, penalty=penalty, seed=seed)
    classifier: Any = found.classifier
    return Predictions(
        labels=y_test == 1,
        predicted=np.asarray(classifier.predict(test)) == 1,
        scores=np.asarray(classifier.predict_proba(test)[:, 1], dtype=np.float64),
    )


def weighted_accuracy(predictions: Predictions, weights: Array) -> Array:
    """Return the accuracy for each weighting, (weightings, texts) -> (weightings,)."""
    right = (predictions.labels == predictions.predicted).astype(np.float64)
    return weights @ right / weights.sum(-1)


def weighted_auc(predictions: Predictions, weights: Array) -> Array:
    """
    Return the area under the ROC curve for each weighting of the texts.

    The share of pairs of a positive and a negative text that the score orders
    rightly, ties counting half; (weightings, texts) -> (weightings,).
    """
    order = np.argsort(predictions.scores, kind="stable")
    ascending = predictions.scores[order]
    starts = np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]])
    labels = predictions.labels[order]
    sorted_weights = weights[:, order]
    # Weight of each distinct score, (weightings, scores).
    positive = np.add.reduceat(sorted_weights * labels, starts, axis=1)
    negative = np.add.reduceat(sorted_weights * ~labels, starts, axis=1)
    below = negative.cumsum(1) - negative / 2
    pairs = positive.sum(1) * negative.sum(1)
    return (positive * below).sum(1) / pairs


STATISTICS = {"test_accuracy": weighted_accuracy, "test_auc": weighted_auc}


def mean_scores(
    by_dataset: Mapping[str, Predictions], *, seed: int
) -> dict[str, Interval]:
    """
    Return accuracy and AUC, averaged over the sets, with 95 % intervals.

    Percentile bootstrap over the test texts within each set; the sets and the
    probes are kept fixed.
    """
    draws = {name: np.zeros(N_RESAMPLES) for name in STATISTICS}
    values = dict.fromkeys(STATISTICS, 0.0)
    for dataset, predictions in by_dataset.items():
        n = len(predictions.labels)
        # Sets of one size must not share their draws.
        own_seed = np.random.SeedSequence([seed, *dataset.encode()]).generate_state(1)
        start = 0
        for weights in resampled_weights(
            n, resamples=N_RESAMPLES, seed=int(own_seed[0])
        ):
            stop = start + len(weights)
            for name, statistic in STATISTICS.items():
                draws[name][start:stop] += statistic(predictions, weights)
            start = stop
        for name, statistic in STATISTICS.items():
            values[name] += float(statistic(predictions, np.ones((1, n)))[0])
    sets, texts = len(by_dataset), sum(len(p.labels) for p in by_dataset.values())
    return {
        name: percentile_interval(values[name] / sets, draws[name] / sets, texts)
        for name in STATISTICS
    }
