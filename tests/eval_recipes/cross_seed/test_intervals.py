"""Intervals over latents: what is drawn together, and how often they cover."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import Literal

import numpy as np
import pytest
import torch

from eval_recipes.cross_seed.aggregate import (
    figures_of_pair,
    pair_figures,
    with_partners,
)
from eval_recipes.cross_seed.groups import difference_over_latents, over_latents
from eval_recipes.cross_seed.metrics import PAIR_METRICS
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import (
    PairFigures,
    Weights,
    measure_pair,
)
from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.seeds import SeedPair, bootstrap_mean_interval

CONFIG = CrossSeedEvalConfig(n_resamples=300)
N, D_IN = 60, 48
REDRAWN = 120

Kind = Literal["shared by all", "one seed shares nothing"]
Pairs = dict[SeedPair, PairFigures]


def redraw(draw: int, kind: Kind, n_seeds: int = 3) -> Pairs:
    """The pairs of SAEs whose every latent is, with probability 1/2, a concept of them all."""
    generator = torch.Generator().manual_seed(draw)
    concepts = torch.randn(N, D_IN, generator=generator)
    common = torch.rand(N, 1, generator=generator) < 0.5
    saes: list[Weights] = []
    for seed in range(n_seeds):
        own = torch.randn(N, D_IN, generator=generator)
        odd = kind == "one seed shares nothing" and seed == 0
        dec = own if odd else torch.where(common, concepts + 0.3 * own, own)
        dec = dec[torch.randperm(N, generator=generator)]
        enc = dec + 0.2 * torch.randn(N, D_IN, generator=generator)
        saes.append(Weights.of(enc.T.contiguous(), dec, alive_threshold=0.1))
    return {
        (low, high): measure_pair(saes[low], saes[high], CONFIG)
        for low, high in combinations(range(n_seeds), 2)
    }


def over_group(pairs: Pairs, metric: str) -> Interval:
    found = over_latents(pairs, metric, CONFIG)
    assert found is not None
    return found


def check_coverage(intervals: list[Interval], *, widest: float, of: str) -> None:
    """Against the spread and the mean of the figure over independent draws of the concepts."""
    values = np.array([interval.value for interval in intervals])
    lows, highs = np.array([interval.ends for interval in intervals]).T
    truth = values.mean()
    covered = float(((lows <= truth) & (truth <= highs)).mean())
    error = float((highs - lows).mean()) / 2 / 1.96
    assert covered >= 0.9, (of, covered)
    # .55 to .75 if partners, or the seeds of a group, were drawn apart
    assert 0.88 < error / values.std(ddof=1) < widest, of


def test_intervals_over_latents_cover_the_truth() -> None:
    """A concept that three seeds share is one observation, not two, three or six."""
    metrics = ("mean_max_cos", "fraction_paired_symmetrised", "shared", "shared_alive")
    found: dict[tuple[str, str], list[Interval]] = defaultdict(list)
    before = redraw(REDRAWN, "shared by all")
    for draw in range(REDRAWN):
        pairs = redraw(draw, "shared by all")
        pair = figures_of_pair(pairs[0, 1], 0, CONFIG)
        similarity, shared = pair_figures(pairs, 0, CONFIG)
        for metric in metrics:
            figures = {
                "pair": pair[metric],
                "SAE": (similarity | shared)[metric],
                "group": over_latents(pairs, metric, CONFIG),
                "difference": difference_over_latents(pairs, before, metric, CONFIG),
            }
            for of, figure in figures.items():
                assert figure is not None
                assert figure.n == (2 * N if of == "difference" else N)
                found[of, metric].append(figure)
        before = pairs
    for (of, metric), intervals in found.items():
        check_coverage(intervals, widest=1.15, of=f"{of} {metric}")


def test_what_others_share_with_each_other_counts_once() -> None:
    """Seeds 1 and 2 share what seed 0 lacks: carried along as its partners they would be two."""
    redrawn = [redraw(draw, "one seed shares nothing") for draw in range(REDRAWN)]
    for metric in ("mean_max_cos", "fraction_paired_symmetrised"):
        intervals = [over_group(pairs, metric) for pairs in redrawn]
        check_coverage(intervals, widest=1.3, of=metric)


def test_a_pair_is_drawn_with_its_partners() -> None:
    pair = redraw(0, "shared by all", 2)[0, 1]
    own, other = pair.values["mean_max_cos"]
    partner = pair.match[0].decoder.partner
    together = bootstrap_mean_interval(
        [((own.double() + other.double()[partner]) / 2).numpy()],
        n_resamples=CONFIG.n_resamples,
        seed=CONFIG.random_seed,
    )
    found = figures_of_pair(pair, 0, CONFIG)["mean_max_cos"]
    assert found is not None
    assert found == pytest.approx(together[:4] + (None,))
    value = (float(own.double().mean()) + float(other.double().mean())) / 2
    assert found.value == pytest.approx(value, abs=1e-15)
    # the encoder's by the encoder's partners, where the two differ
    by_encoder = pair.match[0].encoder.partner
    assert (by_encoder != partner).any()
    own, other = pair.values["mean_max_cos_encoder"]
    expected = (own.double() + other.double()[by_encoder]) / 2
    assert with_partners(pair, "mean_max_cos_encoder", 0).equal(expected)


def test_one_other_seed_is_one_pair() -> None:
    pairs = redraw(1, "shared by all", 2)
    sides = [figures_of_pair(pairs[0, 1], side, CONFIG) for side in (0, 1)]
    for seed, side in enumerate(sides):
        similarity, shared = pair_figures(pairs, seed, CONFIG)
        for metric, figure in (similarity | shared).items():
            assert figure == pytest.approx(side[metric]), metric
    for metric in PAIR_METRICS:
        group, first = over_group(pairs, metric), sides[0][metric]
        assert first is not None
        assert (group.value, group.n) == (pytest.approx(first.value), first.n)
        # both sides draw the same pairs of latents, in another order
        assert group.ends == pytest.approx(first.ends, abs=0.02)


def test_saes_of_different_widths_have_no_figures_of_both_sides() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(90, D_IN, generator=generator)
    a, b = (
        Weights.of(some.T.contiguous(), some, alive_threshold=0.1)
        for some in (rows, rows[:40])
    )
    pair = measure_pair(a, b, CONFIG)
    for side in (0, 1):
        with pytest.raises(ValueError, match="not all have partners"):
            with_partners(pair, "mean_max_cos", side)


def test_no_share_of_alive_latents_is_said_to_exceed_one() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs: Pairs = {}
    saes: list[Weights] = []
    for alive in (4, 1):
        dec = torch.randn(N, D_IN, generator=generator)
        enc = torch.zeros(D_IN, N)
        enc[:, :alive] = dec[:alive].T
        saes.append(Weights.of(enc, dec, alive_threshold=0.1))
    assert [len(one.alive_ids) for one in saes] == [4, 1]
    pairs[0, 1] = measure_pair(*saes, CONFIG)
    _, shared = pair_figures(pairs, 0, CONFIG)
    for found in (shared["shared_alive"], over_group(pairs, "shared_alive")):
        assert found is not None
        # none of the four is shared: the bound of "unseen" alone would be 3.69
        assert (found.value, found.low, found.high) == (0.0, 0.0, 1.0)
