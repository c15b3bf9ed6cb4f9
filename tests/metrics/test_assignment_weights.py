"""Weights of pairs: whole numbers, blocks, memory, and rows that are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval_recipes.speed.matching import OURS, SCIPY, apart
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import match_rows
from saereg_plugin.metrics.assignment import RowWeights, assign
from saereg_plugin.metrics.assignment import weights as weights_module
from saereg_plugin.metrics.matching import hungarian
from tests.metrics.assignment_problems import problem, whole
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
    monkeypatch.setattr(weights_module, "BLOCK_ELEMENTS", 10_000)
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
    assert whole(weights).max() <= weights_module.LARGEST


@pytest.mark.slow
def test_memory_does_not_grow_with_the_matrix() -> None:
    """24,576^2 similarities would be 2.25 GiB in float32, and 4.5 GiB in float64."""
    found = apart([OURS, 1, 24_576, 64, 0.05, 0])
    assert found["relative_gap"] == 0
    assert found["peak_gib"] < 0.75


@pytest.mark.slow
def test_memory_of_kept_similarities_is_theirs() -> None:
    """8192^2 in float32 is 0.25 GiB; scipy's way takes 12 bytes a pair."""
    ours = apart([OURS, 1, 8192, 64, 0.05, 0])["peak_gib"]
    dense = apart([SCIPY, 1, 8192, 64, 0.05, 0])["peak_gib"]
    assert 0.25 < ours < 0.65
    assert dense > 0.75
