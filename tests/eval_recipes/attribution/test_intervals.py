"""Intervals of cores and overlaps: against planted contexts drawn again and again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from eval_recipes.attribution.cores import Cores, Figures, jackknife, measure_cores
from eval_recipes.attribution.options import AttributionEvalConfig
from eval_recipes.attribution.overlap import match_group, overlap_figures
from eval_recipes.attribution.tally import Entries
from saereg_plugin.metrics.codes import Codes

CONTEXTS, ROWS, D_SAE, TEXTS = 48, 4, 100, 40
OPTIONS = AttributionEvalConfig(quantile=0.9)
NAMES = ("core_90", "carried_frequency", "overlap", "overlap_contribution")


class Planted:
    """Two seeds whose latents j are partners and fire in bursts, rare and frequent ones."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        common = generator.normal(0, 1.5, D_SAE)
        self._rates = np.exp(common + generator.normal(0, 0.7, (2, D_SAE)))
        self._slopes = np.exp(generator.normal(0, 0.7, D_SAE))

    def text(self, seed: int) -> Tensor:
        """Return activations of both seeds on one text, [2, contexts, rows, d_sae]."""
        generator = np.random.default_rng(seed)
        bursts = generator.gamma(0.1, 10, (CONTEXTS, 1, D_SAE))
        fires = 1 - np.exp(-0.3 * bursts * self._rates[:, None, None])
        shape = (2, CONTEXTS, ROWS, D_SAE)
        z = generator.exponential(1, shape) * (generator.random(shape) < fires)
        return torch.tensor(z, dtype=torch.float32)

    def cores(self, z: Tensor, halves: int = 25) -> Cores:
        """Return the cores of one seed, of activations [contexts, rows, d_sae]."""
        codes = Codes.of(z.flatten(0, 1))
        slopes = torch.tensor(self._slopes, dtype=torch.float32)
        entries = Entries(
            codes=codes,
            effects=codes.values * slopes[codes.latents],
            contexts=torch.arange(len(z)).repeat_interleave(ROWS),
            norms=torch.ones(D_SAE),
            n_contexts=len(z),
        )
        return measure_cores(entries, replace(OPTIONS, n_resamples=halves))

    def figures(self, z: Tensor) -> Figures:
        """Return the figures of the first seed."""
        cores = {name: self.cores(own) for name, own in zip("ab", z, strict=True)}
        rows = dict.fromkeys("ab", torch.eye(D_SAE))
        pairs = match_group(cores, rows, OPTIONS)["a"]
        return cores["a"].figures | overlap_figures(cores["a"], pairs, OPTIONS)


def test_intervals_cover_what_such_texts_have_on_average() -> None:
    planted = Planted()
    found = [planted.figures(planted.text(seed)) for seed in range(TEXTS)]
    for name in NAMES:
        intervals = [figures[name] for figures in found]
        known = [interval for interval in intervals if interval is not None]
        assert len(known) == TEXTS
        low, high = np.array([interval.ends for interval in known]).T
        values = np.array([interval.value for interval in known])
        covered = (low <= values.mean()) & (values.mean() <= high)
        # 95 % less three standard errors of 40 texts
        assert covered.mean() > 0.84, name
        # and not by being wide
        assert np.mean(high - low) < 1.8 * 2 * 1.96 * values.std(ddof=1), name


def test_figures_lie_in_the_middle_where_resamples_lie_below_them() -> None:
    """A bootstrap would have them near the upper end."""
    planted = Planted()
    below: list[bool] = []
    for seed in range(4):
        z = planted.text(seed)
        figure = planted.figures(z)["overlap_contribution"]
        assert figure is not None
        assert sum(figure.ends) / 2 == pytest.approx(figure.value)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(15):
            chosen = torch.randint(CONTEXTS, (CONTEXTS,), generator=generator)
            cores = {n: planted.cores(own[chosen], 1) for n, own in zip("ab", z)}
            of_a, of_b = (each.members["contribution"] for each in cores.values())
            resampled = float((of_a & of_b).sum() / of_a.sum())
            below.append(resampled < figure.value)
    assert np.mean(below) > 0.65


def test_ends_are_possible_values() -> None:
    found = jackknife(0.9, [0.5, 0.9, 1.0], 6, 12, most=1)
    assert found is not None and found.ends[1] == 1.0 and found.ends[0] > 0
    assert jackknife(float("nan"), [1.0, 2.0], 6, 12, most=1) is None
    few = jackknife(3.0, [2.0, 4.0], 3, 3, most=9)
    assert few is not None and few.low is None and few.reason
