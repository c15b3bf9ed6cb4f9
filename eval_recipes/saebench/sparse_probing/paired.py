"""Probe accuracies with intervals, on the same texts for every SAE."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sae_bench.evals.sparse_probing import probe_training
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from eval_recipes.saebench.upstream import preserved_state, seed_everything
from eval_recipes.statistics.interval import NO_VARIATION, Interval, bootstrap

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Features = Mapping[str, Tensor]
"""One vector per text, shape (texts, features), by class."""

FIT_SHARE = 0.8
"""Share of the train texts a probe on all features is fitted on; the rest picks the epoch."""


class Side(NamedTuple):
    """Texts of one probe by their number in the set (classes in order), with labels 1 or 0."""

    texts: Ints
    labels: Ints


class Draw(NamedTuple):
    """Train and test texts of the probe of one class."""

    train: Side
    test: Side


Draws = Mapping[str, Draw]
Correct = dict[str, Bools]
"""By class, whether the probe was right on each of its test texts."""


def to_tensors(correct: Mapping[str, Correct]) -> dict[str, dict[str, Tensor]]:
    """Return results by reader and class as tensors, which ``torch.load`` reads safely."""
    return {
        reader: {name: torch.from_numpy(right) for name, right in by_class.items()}
        for reader, by_class in correct.items()
    }


def from_tensors(stored: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Correct]:
    """Return the results that ``to_tensors`` was given."""
    return {
        reader: {name: right.numpy() for name, right in by_class.items()}
        for reader, by_class in stored.items()
    }


def stable_seed(*parts: object) -> int:
    """Return a seed of 32 bits that depends on ``parts`` only, in every process."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def draw(
    sizes: Mapping[str, tuple[int, int]],
    left_out: Mapping[str, Bools],
    *,
    dataset_name: str,
    seed: int,
) -> Draws:
    """
    Draw for each class its own texts and as many of the other classes, evenly.

    The draw depends on set, class and seed. Upstream's ``prepare_probe_data`` draws from the
    global generator, whose state depends on the SAEs scored before.

    ``sizes`` are train and test texts by class; ``left_out`` is True for test texts that must not be
    used, shape (test texts,), by class.
    """
    names = list(sizes)
    kept: dict[str, list[Ints]] = {"train": [], "test": []}
    train_start = test_start = 0
    for name in names:
        n_train, n_test = sizes[name]
        kept["train"].append(train_start + np.arange(n_train))
        kept["test"].append(test_start + np.flatnonzero(~left_out[name]))
        train_start, test_start = train_start + n_train, test_start + n_test
    return {
        name: Draw(
            *(
                _side(kept[side], index, (seed, dataset_name, name, side))
                for side in ("train", "test")
            )
        )
        for index, name in enumerate(names)
    }


def _side(texts: list[Ints], index: int, seed: tuple[object, ...]) -> Side:
    generator = np.random.default_rng(stable_seed(*seed))
    positives = texts[index]
    others = [own for i, own in enumerate(texts) if i != index]
    share = math.ceil(len(positives) / len(others))
    pool = np.concatenate([generator.permutation(own)[:share] for own in others])
    negatives = generator.permutation(pool)[: len(positives)]
    chosen = np.concatenate([positives, negatives])
    labels = np.concatenate([np.ones_like(positives), np.zeros_like(negatives)])
    order = generator.permutation(len(chosen))
    return Side(chosen[order], labels[order])


def score(
    train: Features, test: Features, draws: Draws, k: int | None, *, seed: int
) -> Correct:
    """
    Train a probe for each class and return where it is right on the test texts.

    Args:
        train: features of the train texts.
        test: features of the test texts, classes in the same order.
        draws: which texts each probe sees.
        k: how many features the probe may use, chosen by the difference of the classes'
            means on the train texts; None for all features.
        seed: seed of a probe on all features.
    """
    all_train, all_test = (
        torch.cat(list(train.values())),
        torch.cat(list(test.values())),
    )
    correct: Correct = {}
    for name, (seen, asked) in draws.items():
        x = all_train[torch.from_numpy(seen.texts)]
        x_test = all_test[torch.from_numpy(asked.texts)]
        y, y_test = (torch.from_numpy(side.labels).int() for side in (seen, asked))
        if k is None:
            right = _all_features(x, y, x_test, y_test, seed=stable_seed(seed, name))
        else:
            right = _top_k(x, y, x_test, y_test, k)
        correct[name] = right
    return correct


def _top_k(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, k: int) -> Bools:
    """
    Score upstream's probe on its k features, fitted to convergence.

    Upstream's solver stops so early that results depend on the order of the features.
    """
    unused = probe_training.get_top_k_mean_diff_mask(x, y.to(x.device), k)
    probe = LogisticRegression(solver="newton-cholesky", tol=1e-10, max_iter=1000)
    probe.fit(_columns(x, unused), y.numpy())
    return np.equal(probe.predict(_columns(x_test, unused)), y_test.numpy())


def _columns(x: Tensor, unused: Tensor) -> NDArray[np.float64]:
    return x[:, ~unused].double().cpu().numpy()


def _all_features(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, *, seed: int
) -> Bools:
    """
    Score a probe on all features; a part of the train texts chooses its epoch.

    Upstream's ``train_probe_gpu`` keeps the epoch that is best on the texts it tests on.
    """
    n_fit = int(FIT_SHARE * len(x))
    y, y_test = y.to(x.device), y_test.to(x.device)
    with preserved_state():
        seed_everything(seed)
        torch.set_grad_enabled(True)
        probe, _ = probe_training.train_probe_gpu(
            x[:n_fit],
            y[:n_fit],
            x[n_fit:],
            y[n_fit:],
            dim=x.shape[1],
            batch_size=250,
            epochs=100,
            lr=1e-2,
        )
    with torch.no_grad():
        return ((probe(x_test) > 0) == (y_test == 1)).cpu().numpy()


def accuracies(
    weights: NDArray[np.float64], draws: Draws, correct: Correct
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """
    Yield for each class its accuracy under weights of the set's test texts.

    Weights have the shape (weightings, test texts of the set).

    Yields:
        Accuracies (weightings,), and whether any text has weight; 0 where none has.
    """
    for name, right in correct.items():
        w = weights[:, draws[name].test.texts]
        total = w.sum(1)
        yield (w @ right) / np.maximum(total, 1), total > 0


Array = NDArray[np.float64]


class Scored(NamedTuple):
    """Texts that the probes of one data set got right, by reader."""

    draws: Draws
    n_test: int
    """Test texts of the set, used or left out."""
    correct: Mapping[str, Correct]
    left_out: int = 0
    """Test texts not used, because a train text has the same tokens."""


def macro_accuracy(
    sets: Sequence[Scored], name: str, minus: str | None = None, *, seed: int
) -> Interval:
    """
    Return the mean over sets of the mean over classes of the test accuracy.

    With ``minus``, the difference of two accuracies, paired by text. The interval resamples
    the test texts of all sets together (one text counts in several classes' probes); sets
    and classes are fixed. A resample's mean leaves out classes without a text.

    Returns:
        The interval; ``n`` is the number of distinct test texts used. There is a reason
        instead of ends where no resample differs: all texts are answered alike.
    """
    # texts that are left out get no weight, so that they do not widen the interval
    used = [_used(scored) for scored in sets]
    n = sum(map(len, used))

    def statistic(weights: Array) -> Array:
        values: list[Array] = []
        present: list[Array] = []
        start = 0
        for scored, texts in zip(sets, used, strict=True):
            spread = np.zeros((len(weights), scored.n_test))
            spread[:, texts] = weights[:, start : start + len(texts)]
            start += len(texts)
            value, some = _set_mean(spread, scored, name)
            if minus is not None:
                value = value - _set_mean(spread, scored, minus)[0]
            values.append(value)
            present.append(some)
        total = np.sum(values, axis=0)
        return total / np.maximum(np.sum(present, axis=0), 1)

    found = bootstrap(statistic, n, seed=seed)
    if found.low is not None and found.low == found.high:
        return Interval(found.value, None, None, n, NO_VARIATION)
    return found


def _used(scored: Scored) -> NDArray[np.int64]:
    return np.unique(np.concatenate([d.test.texts for d in scored.draws.values()]))


def _set_mean(weights: Array, scored: Scored, name: str) -> tuple[Array, Array]:
    """Return the mean over classes (0 where no class has a text), and 1 where one has."""
    classes = list(accuracies(weights, scored.draws, scored.correct[name]))
    total = np.sum([value * some for value, some in classes], axis=0)
    n = np.sum([some for _, some in classes], axis=0)
    return total / np.maximum(n, 1), (n > 0).astype(np.float64)
