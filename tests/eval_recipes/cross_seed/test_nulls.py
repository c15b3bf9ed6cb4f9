"""Nulls of unstable subspaces: against plain numpy, and by construction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from eval_recipes.cross_seed.nulls import (
    BASIS,
    SPAN_SIZES,
    GroupNulls,
    mean_at,
    measure_nulls,
    one_more_draw,
    pair_nulls,
    span_figures,
    subspace_figures,
)
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import Weights
from eval_recipes.statistics.interval import Interval
from saereg_plugin.metrics import (
    leading_directions,
    overlap_ranks,
    subspace_overlap,
    unit_rows,
)
from tests.oracles import cross_seed_oracle as oracle

CONFIG = CrossSeedEvalConfig(n_resamples=100)
D_IN = 48
HADAMARD = (
    torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
)
THIRD = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
"""Three bases of 4 dimensions, the axes among them: |cosine| 1/2 between any two."""


def weights(rows: Tensor) -> Weights:
    return Weights.of(rows.T, rows, alive_threshold=0.1)


def groups_of_six(groups: int = 4, d_in: int = D_IN) -> dict[int, Weights]:
    """
    Two seeds of planted groups: 6 latents in 4 dimensions, no |cosine| above 1/2.

    One seed has the axes and half of the third basis, the other the second basis and the other
    half.
    """
    planted = (
        torch.cat([torch.eye(4), THIRD[:2]]),
        torch.cat([HADAMARD, THIRD[2:]]),
    )
    found: dict[int, Weights] = {}
    for seed, group in enumerate(planted):
        rows = torch.zeros(6 * groups, d_in)
        for number in range(groups):
            rows[6 * number : 6 * number + 6, 4 * number : 4 * number + 4] = group
        found[seed] = weights(rows)
    return found


def nothing_stable(found: dict[int, Weights]) -> dict[int, Tensor]:
    return {s: torch.zeros(len(w.dec), dtype=torch.bool) for s, w in found.items()}


def measured(
    found: dict[int, Weights], covariance: Tensor | None, **kwargs: object
) -> GroupNulls:
    given = {"stable": nothing_stable(found), "headline": 16, **kwargs}
    stable, headline = given["stable"], given["headline"]
    assert isinstance(stable, dict) and isinstance(headline, int)
    return measure_nulls(
        found,
        stable,
        dict.fromkeys(found, covariance),
        headline=headline,
        config=CONFIG,
    )


def own_overlap(found: dict[int, Weights], rank: int) -> Interval:
    blocks = [leading_directions(found[s].dec) for s in (0, 1)]
    (value,) = subspace_overlap(blocks[0], blocks[1], [rank])
    assert value is not None
    return Interval(value, None, None, 1)


def test_planted_groups_do_not_match_but_their_spans_do() -> None:
    found = groups_of_six()
    largest = (found[0].dec @ found[1].dec.T).abs().max()
    assert float(largest) == pytest.approx(0.5)
    nulls = measured(found, torch.eye(D_IN).double())
    figures = span_figures(nulls, 0, CONFIG)
    values = {name: figure.value for name, figure in figures.items() if figure}
    assert values["span_nearest_1"] == pytest.approx(0.25)
    assert values["span_nearest_8"] == pytest.approx(1)
    assert [values[f"basis_{name}"] for name in BASIS] == [0, 1, 0]
    assert [values[f"basis_{name}_chance"] for name in BASIS] == [0, 0, 1]
    # by chance 8 of 24 partners hold less than T, chosen at random or as the nearest
    assert max(values["span_random_8"], values["span_gaussian_8"]) < 0.49
    overlap = own_overlap(found, 16)
    assert overlap.value == pytest.approx(1)
    subspaces = subspace_figures(nulls, 0, overlap, D_IN, 16)
    chance, excess = (
        subspaces[f"unstable_overlap_{name}"] for name in ("gaussian", "excess")
    )
    assert chance is not None and chance.value < 0.55
    assert excess is not None and excess.distinguishable
    assert excess.value == pytest.approx(1 - chance.value)
    # groups that are orthogonal to those of the other seed have nothing in common
    other = {0: found[0], 1: weights(found[1].dec.roll(16, 1))}
    apart = span_figures(measured(other, torch.eye(D_IN).double()), 0, CONFIG)
    assert [apart[f"basis_{name}"].value for name in BASIS] == [0, 0, 1]  # type: ignore[union-attr]


def test_rows_of_the_data_alone_have_no_excess() -> None:
    """Two dictionaries of independent draws in the data's directions overlap far above r / d."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.linspace(3, 0.05, D_IN) ** 2
    turn = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=generator))[0]
    covariance = (turn * spectrum) @ turn.T
    found = {
        s: weights(
            torch.randn(300, D_IN, generator=generator) * spectrum.sqrt() @ turn.T
        )
        for s in (0, 1)
    }
    nulls = measured(found, covariance.double())
    overlap = own_overlap(found, 16)
    assert overlap.value > 2 * 16 / D_IN
    figures = subspace_figures(nulls, 1, overlap, D_IN, 16)
    chance, excess = (
        figures[f"unstable_overlap_{name}"] for name in ("gaussian", "excess")
    )
    assert chance is not None and chance.n == CONFIG.null_draws
    assert excess is not None and not excess.distinguishable
    # numpy's own draws say the same
    expected = oracle.gaussian_overlap(covariance.numpy(), 300, 16, draws=20, seed=1)
    assert chance.value == pytest.approx(
        np.mean(expected), abs=3 * float(np.std(expected))
    )
    spans = span_figures(nulls, 0, CONFIG)
    for m in SPAN_SIZES:
        near, chance, moments = (
            spans[f"span_{kind}_{m}"] for kind in ("nearest", "gaussian", "moments")
        )
        assert near is not None and chance is not None and moments is not None
        assert near.value == pytest.approx(chance.value, abs=0.02)
        assert near.value == pytest.approx(moments.value, abs=0.02)
        random = spans[f"span_random_{m}"]
        assert random is not None and random.value < near.value
    pca, drawn = figures["unstable_overlap_pca"], figures["gaussian_overlap_pca"]
    assert pca is not None and drawn is not None and drawn.low is not None
    # a 95 % interval misses one value in twenty: it may lie next to its end
    assert drawn.low - 0.01 < pca.value < drawn.ends[1] + 0.01


def test_groups_span_more_than_rows_of_their_moments() -> None:
    found = groups_of_six(36, 144)
    figures = span_figures(measured(found, None), 0, CONFIG)
    values = {name: figure.value for name, figure in figures.items() if figure}
    assert values["basis_rotated"] == 1
    assert values["basis_rotated_chance_moments"] == 0
    assert values["basis_apart_chance_moments"] == 1
    rows, partners = (found[s].dec.tolist() for s in (0, 1))
    expected = oracle.nearest_span_of_mixtures(rows, partners, 8, seed=2)
    assert values["span_moments_8"] == pytest.approx(expected, abs=0.01)
    assert values["span_moments_1"] < values["span_moments_8"] < 0.4


def test_latents_off_the_leading_directions_of_the_data_need_the_second_null() -> None:
    """Rows of the data crowd along 4 of 48 directions, latents without a common one do not."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.ones(D_IN)
    spectrum[:4] = 400
    spread = torch.linspace(0.3, 1, D_IN)
    found = {
        s: weights(torch.randn(150, D_IN, generator=generator) * spread) for s in (0, 1)
    }
    figures = span_figures(measured(found, torch.diag(spectrum)), 0, CONFIG)
    near, data, moments = (
        figures[f"span_{kind}_8"] for kind in ("nearest", "gaussian", "moments")
    )
    assert near is not None and data is not None and moments is not None
    # above the first null, though the seeds have nothing in common
    assert near.ends[0] > data.ends[1] + 0.1
    assert near.value == pytest.approx(moments.value, abs=0.015)
    rows, partners = (found[s].dec.tolist() for s in (0, 1))
    expected = oracle.nearest_span_of_mixtures(rows, partners, 8, seed=1)
    assert moments.value == pytest.approx(expected, abs=0.01)


def test_principal_directions_are_recovered() -> None:
    rows = torch.cat([torch.eye(16), torch.eye(16)])
    found = {s: weights(torch.nn.functional.pad(rows, (0, 32))) for s in (0, 1)}
    covariance = torch.diag(torch.cat([torch.full((16,), 4.0), torch.full((32,), 0.1)]))
    figures = subspace_figures(measured(found, covariance), 0, None, D_IN, 16)
    assert figures["unstable_overlap_pca"].value == pytest.approx(1)  # type: ignore[union-attr]
    assert figures["unstable_overlap"] is None
    assert figures["unstable_overlap_excess"] is None


def test_blocks_of_stable_latents_are_of_equal_number() -> None:
    """10 stable latents, the same in both seeds, and 20 others, orthogonal between the seeds."""
    eye = torch.eye(D_IN)
    found = {0: weights(eye[:28]), 1: weights(torch.cat([eye[:10], eye[28:46]]))}
    stable = {s: torch.arange(28) < 10 for s in found}
    nulls = measured(found, None, stable=stable)
    assert (nulls.number, nulls.rank) == (10, 8)
    figures = subspace_figures(nulls, 0, None, D_IN, 16)
    kept, others = (figures[f"{n}_overlap_matched"] for n in ("stable", "unstable"))
    # 8 of the same 10 directions, among which singular values are equal, so any
    assert kept is not None and 0.6 < kept.value <= 1
    assert others is not None and others.value == pytest.approx(0, abs=1e-9)
    whole = [
        mean_at([nulls.pairs[0, 1].stable], i) for i in range(len(overlap_ranks(D_IN)))
    ]
    assert whole[-1] is None and whole[-2] is None


def test_without_activations_only_what_needs_none_is_measured() -> None:
    figures = span_figures(measured(groups_of_six(), None), 0, CONFIG)
    missing = {name for name, figure in figures.items() if figure is None}
    expected = {f"span_gaussian_{m}" for m in SPAN_SIZES}
    # rows with the moments of the other seed's latents need no activations
    assert missing == expected | {f"basis_{name}_chance" for name in BASIS}
    nulls = measured(groups_of_six(), None)
    known = {n for n, f in subspace_figures(nulls, 0, None, D_IN, 16).items() if f}
    assert known == set()
    assert all(figure is None for figure in span_figures(None, 0, CONFIG).values())


def test_few_unstable_partners_leave_larger_spans_undefined() -> None:
    found = {s: weights(torch.eye(D_IN)[:3]) for s in (0, 1)}
    figures = span_figures(measured(found, torch.eye(D_IN).double()), 0, CONFIG)
    assert figures["span_nearest_2"] is not None
    assert figures["span_nearest_4"] is None
    assert figures["basis_rotated"] is None
    stable = {s: torch.ones(3, dtype=torch.bool) for s in found}
    none = measured(found, torch.eye(D_IN).double(), stable=stable)
    assert all(figure is None for figure in span_figures(none, 0, CONFIG).values())
    assert none.number == 0


def test_draws_and_pairs() -> None:
    assert one_more_draw([0.5])[1:3] == (None, None)
    low, high = one_more_draw([0.0, 1.0]).ends
    assert (low + high) / 2 == pytest.approx(0.5)
    nulls = measured(groups_of_six(), torch.eye(D_IN).double())
    index = overlap_ranks(D_IN).index(16)
    found = pair_nulls(nulls, {(0, 1): 0.75}, index)
    mean = found["unstable_overlap_gaussian"][0, 1]
    assert found["unstable_overlap_excess"][0, 1] == pytest.approx(0.75 - mean)
    assert pair_nulls(None, {(0, 1): 0.75}, index)["unstable_overlap_excess"] == {}


def test_unit_rows_of_gaussians_do_not_depend_on_their_scale() -> None:
    covariance = torch.diag(torch.arange(1.0, D_IN + 1))
    first = measured(groups_of_six(), covariance)
    second = measured(groups_of_six(), covariance * 100)
    a, b = (
        torch.tensor(n.pairs[0, 1].gaussian[0][:5], dtype=torch.float64)
        for n in (first, second)
    )
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert float(unit_rows(covariance).norm(dim=1).max()) == pytest.approx(1)
