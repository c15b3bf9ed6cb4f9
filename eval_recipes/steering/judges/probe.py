"""A classifier of the target property, learned from two sets of texts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from eval_recipes.select.halves import halves
from eval_recipes.select.separation import ChosenLatent
from eval_recipes.statistics.auroc import auroc
from eval_recipes.statistics.interval import NO_VARIATION, Array
from eval_recipes.statistics.seeds import Interval, bootstrap_mean_interval
from eval_recipes.steering.generate.trials import Arm, Trial
from eval_recipes.steering.stats.rates import cluster_mean

ONE_DIRECTION = "one direction has no spread"

Embed = Callable[[Sequence[str]], Tensor]
"""Maps texts to vectors [text, width]."""


@dataclass(frozen=True)
class Probe:
    """
    Logistic regression on sentence embeddings, inverse penalty C = 1.

    Learned from the half of the texts that latents are chosen by. Both sets have the same
    weight, so that the larger set is not favoured.
    """

    model: Any
    embed: Embed
    accuracy: Interval
    """Share of the other half's texts classified correctly; bootstrap over texts."""
    auroc: Interval
    """On the other half."""

    def chances(self, texts: Sequence[str]) -> Array:
        """Return the chance of the property for each text, shape (text,)."""
        vectors = self.embed(texts).numpy().astype(np.float64)
        return self.model.predict_proba(vectors)[:, 1]


def train_probe(
    a: Sequence[str], b: Sequence[str], embed: Embed, *, seed: int
) -> Probe:
    """
    Learn to tell texts like ``a``, with the property, from texts like ``b``, 4 or more each.

    ``seed`` decides the split, the same as in ``separate``.
    """
    split_a, split_b = halves(len(a), seed=seed), halves(len(b), seed=seed)
    vectors_a, vectors_b = (embed(texts).numpy().astype(np.float64) for texts in (a, b))
    known = np.concatenate([vectors_a[split_a.select], vectors_b[split_b.select]])
    labels = np.repeat([1, 0], [len(split_a.select), len(split_b.select)])
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(
        known, labels
    )
    scores_a, scores_b = (
        model.decision_function(vectors[split.measure])
        for vectors, split in ((vectors_a, split_a), (vectors_b, split_b))
    )
    right = np.concatenate([scores_a > 0, scores_b <= 0]).astype(float)
    return Probe(
        model=model,
        embed=embed,
        accuracy=bootstrap_mean_interval([right], caps=[1], seed=seed),
        auroc=auroc(scores_a, scores_b),
    )


@dataclass(frozen=True)
class Effect:
    """Effect of steering on the chance of the target property."""

    before: float
    """Mean chance of the unsteered texts."""
    after: float
    """Mean chance of the steered texts."""
    change: Interval
    """Mean of after - before over pairs of texts; ``effect`` says what is resampled."""


def effect(
    probe: Probe,
    unsteered: Sequence[str],
    steered: Sequence[str],
    *,
    prompts: Sequence[Hashable] | None = None,
    directions: Sequence[Hashable] | None = None,
    seed: int,
) -> Effect:
    """
    Return the effect on pairs of texts that share prompt and random numbers.

    Args:
        probe: the classifier.
        unsteered: texts before.
        steered: texts after.
        prompts: the prompt of each pair. Prompts are no sample, so pairs are resampled within
            prompts where each has two or more.
        directions: the direction of each pair, if directions are a sample: all pairs of a
            direction are resampled together, whatever their prompt, and ``n`` counts
            directions. None if all pairs have the same direction.
        seed: of the resamples.

    Raises:
        ValueError: if the numbers of texts differ or are 0.
    """
    if len(unsteered) != len(steered) or not steered:
        raise ValueError(f"{len(unsteered)} unsteered, {len(steered)} steered texts")
    before, after = probe.chances(unsteered), probe.chances(steered)
    change = after - before
    if directions is None:
        parts = _by_prompt(change, prompts)
        shares = [len(part) / len(change) for part in parts]
        interval = bootstrap_mean_interval(parts, weights=shares, seed=seed)
        interval = interval._replace(n=len(change))
    else:
        interval = _over_directions(change, directions, seed)
    return Effect(float(before.mean()), float(after.mean()), interval)


def _over_directions(
    change: Array, directions: Sequence[Hashable], seed: int
) -> Interval:
    of, names = pd.Series(list(directions)).factorize()
    means = pd.Series(change).groupby(of).mean()
    reason = ONE_DIRECTION if len(names) == 1 else None
    if reason is None and np.ptp(means) < 1e-12:
        reason = NO_VARIATION
    if reason is not None:
        return Interval(float(change.mean()), None, None, len(names), reason)
    return cluster_mean(change, of, seed=seed)


def _by_prompt(change: Array, prompts: Sequence[Hashable] | None) -> list[Array]:
    if prompts is None:
        return [change]
    parts = [
        part.to_numpy()
        for _, part in pd.Series(change).groupby(list(prompts), sort=False)
    ]
    return [change] if min(map(len, parts)) < 2 else parts


@dataclass(frozen=True)
class AmountEffect:
    """The classifier's mean chance before and after steering at one strength, and its change."""

    amount: float
    before: float
    after: float
    change: Interval


@dataclass(frozen=True)
class ContrastLatent:
    """How well one latent separates the sets, and the effect of steering with it."""

    latent: int
    selected: float
    measured: Interval
    steered: tuple[AmountEffect, ...]
    random: tuple[AmountEffect, ...]
    """Effect of random directions of the same norm, another for each repeat; whole repeats are
    resampled."""


@dataclass(frozen=True)
class ContrastReport:
    """Contrastive selection of one SAE."""

    texts_a: int
    texts_b: int
    probe: str
    probe_accuracy: Interval
    probe_auroc: Interval
    latents: tuple[ContrastLatent, ...]


def contrast_report(
    trials: Sequence[Trial],
    separating: Sequence[ChosenLatent],
    probe: Probe,
    n_texts: tuple[int, int],
    amounts: Sequence[float],
    *,
    seed: int,
) -> ContrastReport:
    """
    Return the effect of steering with each latent on the classifier's chance of the property.

    ``trials`` holds all arms, ``separating`` the latents, best first, ``n_texts`` the sizes of
    both sets, and ``amounts`` the strengths, the headline's first.
    """

    def effects(arm: Arm, latent: int) -> Iterator[AmountEffect]:
        for amount in amounts:
            pairs = [
                trial
                for trial in trials
                if (trial.arm, trial.latent, trial.amount) == (arm, latent, amount)
            ]
            if pairs:
                # a repeat has one random direction, whatever the prompt
                repeats = [trial.repeat for trial in pairs]
                found = effect(
                    probe,
                    [trial.original.text for trial in pairs],
                    [trial.other.text for trial in pairs],
                    prompts=[trial.prompt for trial in pairs],
                    directions=repeats if arm == "random" else None,
                    seed=seed,
                )
                yield AmountEffect(amount, found.before, found.after, found.change)

    return ContrastReport(
        texts_a=n_texts[0],
        texts_b=n_texts[1],
        probe="logistic regression (C = 1, balanced) on sentence embeddings",
        probe_accuracy=probe.accuracy,
        probe_auroc=probe.auroc,
        latents=tuple(
            ContrastLatent(
                latent=one.latent,
                selected=one.selected,
                measured=one.measured,
                steered=tuple(effects("steered", one.latent)),
                random=tuple(effects("random", one.latent)),
            )
            for one in separating
        ),
    )
