"""Weights of pairs: whole numbers, blocks, memory, and rows that are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval_recipes.speed.matching import OURS, SCIPY, apart
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import match_rows, unit_rows
from saereg_plugin.metrics.assignment import blocks
from saereg_plugin.metrics.assignment.solve import assign
from saereg_plugin.metrics.assignment.weights import LARGEST, RowWeights
from saereg_plugin.metrics.matching import hungarian
from tests.metrics.assignment_problems import ROUNDING, problem, whole
from tests.oracles import assignment_oracle as oracle


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_with_its_row(bad: float) -> None:
    good, broken = torch.eye(4), torch.eye(4)
    broken[2, 1] = bad
    with pytest.raises(InputError, match="Row 2 of a holds NaN or infinity"):
        match_rows(broken, good)
    with pytest.raises(InputError, match="Row 2 of b holds NaN"):
        match_rows(good, broken)
    with pytest.raises(InputError, match="Row 2 of similarity holds NaN"):
        hungarian(broken)


def test_wrong_shapes_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match="have 3 entries and rows of b 4"):
        match_rows(torch.eye(3), torch.eye(4))
    with pytest.raises(InputError, match=r"a has shape \[3\]"):
        match_rows(torch.ones(3), torch.eye(3))
    with pytest.raises(InputError, match="no entries"):
        match_rows(torch.ones(3, 0), torch.ones(3, 0))
    weights = RowWeights(torch.eye(3), torch.eye(3), absolute=True)
    with pytest.raises(InputError, match="candidates is 0"):
        assign(weights, candidates=0)
    with pytest.raises(InputError, match="relative_gap is nan"):
        assign(weights, relative_gap=float("nan"))


@pytest.mark.parametrize("store_bytes", [0, 1 << 30])
@pytest.mark.parametrize("threads", [1, 2])
def test_many_blocks_and_threads_change_nothing(
    monkeypatch: pytest.MonkeyPatch, store_bytes: int, threads: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 10_000)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = problem("planted", 501, 433, 20, 7)
        weights = RowWeights(a, b, absolute=True, store_bytes=store_bytes)
        assert len(list(weights.blocks())) == 22
        assert np.array_equal(whole(weights), whole(weights))
        found = assign(weights)
        assert (found.gap, found.rounds > 0) == (0, True)
        assert found.similarity.sum() == pytest.approx(
            oracle.best_total(weights.grid.similarity(whole(weights))), abs=1e-9
        )
    finally:
        torch.set_num_threads(before)


def test_weights_are_the_float32_cosines_themselves() -> None:
    """Above 2^-7 nothing is rounded, so a matched similarity is the product's own value."""
    a, b = problem("random", 64, 64, 32, 9)
    weights = RowWeights(a, b, absolute=True)
    shown = weights.grid.similarity(whole(weights))
    rounded = shown.astype(np.float32).astype(np.float64)
    assert np.array_equal(shown[shown >= 2**-7], rounded[shown >= 2**-7])
    assert whole(weights).min() >= 0
    assert whole(weights).max() <= LARGEST


@pytest.mark.parametrize("factor", [1e39, 1e300, 1e-40, 1e-300])
def test_float64_rows_may_be_beyond_float32(factor: float) -> None:
    a, b = problem("random", 30, 40, 8, 3)
    found = match_rows(a.double() * factor, b)
    plain = match_rows(a, b)
    assert torch.equal(found.partner, plain.partner)
    assert float((found.similarity - plain.similarity).abs().max()) < 1e-6
    assert found.gap == 0


@pytest.mark.parametrize("store_bytes", [0, 1 << 30])
@pytest.mark.parametrize("seen", [False, True])
def test_some_rows_and_columns_have_the_weights_they_had(
    monkeypatch: pytest.MonkeyPatch, store_bytes: int, seen: bool
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 1000)
    a, b = problem("planted", 90, 70, 20, 7)
    weights = RowWeights(a, b, absolute=True, store_bytes=store_bytes)
    # no row of the second and third block
    ids_a = torch.tensor([0, 3, *range(50, 90)])
    ids_b = torch.arange(1, 70, 2)
    expected = whole(RowWeights(a, b, absolute=True))[ids_a][:, ids_b]
    before = whole(weights) if seen else None
    taken = weights.take(ids_a, ids_b)
    assert taken.shape == (42, 35)
    kept = seen and store_bytes > 0
    # products of other shapes may differ in their last bits
    slack = 0 if kept else ROUNDING * LARGEST
    assert np.abs(whole(taken) - expected).max() <= slack
    assert np.array_equal(whole(taken), whole(taken))
    assert assign(taken).gap == 0
    assert before is None or np.array_equal(whole(weights), before)


@pytest.mark.parametrize("d", [16, 20])
def test_rows_scaled_before_give_the_same_weights(d: int) -> None:
    a, b = problem("random", 40, 50, d, 1)
    plain = RowWeights(a, b, absolute=False)
    scaled = RowWeights(unit_rows(a), unit_rows(b), absolute=False, unit=True)
    assert np.array_equal(whole(plain), whole(scaled))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_matrix() -> None:
    """23,552^2 similarities, too many to be kept, would be 2.07 GiB in float32."""
    found = apart([OURS, 1, 23_552, 16, 0.05, 0])
    assert found["relative_gap"] == 0
    assert found["peak_gib"] < 0.75


@pytest.mark.slow
def test_memory_of_kept_similarities_is_theirs() -> None:
    """8192^2 in float32 is 0.25 GiB; scipy's way takes 12 bytes a pair."""
    ours = apart([OURS, 1, 8192, 16, 0.05, 0])["peak_gib"]
    # it takes as much memory for an easy problem, and less time
    dense = apart([SCIPY, 1, 8192, 16, 0.95, 0])["peak_gib"]
    assert 0.25 < ours < 0.65
    assert dense > 0.75
