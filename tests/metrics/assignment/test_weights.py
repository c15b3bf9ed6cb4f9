"""Weights of pairs: whole numbers, blocks, memory, and rows that are refused."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_recipes.speed.matching import OURS, SCIPY, _measure
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import match_rows, unit_rows
from saereg_plugin.metrics.assignment import scan
from saereg_plugin.metrics.assignment.solve import assign
from saereg_plugin.metrics.assignment.weights import LARGEST, DenseWeights, RowWeights
from saereg_plugin.metrics.matching import hungarian
from tests.forked import forked
from tests.metrics.assignment.problems import ROUNDING, problem, whole
from tests.oracles import assignment_oracle as oracle


def _measured(*arguments: Any) -> dict[str, Any]:
    """Measure after giving back freed memory, which would otherwise be used unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return _measure(*arguments)


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
    monkeypatch.setattr(scan, "BLOCK_ELEMENTS", 10_000)
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
    monkeypatch.setattr(scan, "BLOCK_ELEMENTS", 1000)
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
    found = forked(_measured, OURS, 1, 23_552, 16, 0.05, 0)
    assert found["relative_gap"] == 0
    assert found["peak_gib"] < 0.75


@pytest.mark.slow
def test_memory_of_kept_similarities_is_theirs() -> None:
    """8192^2 in float32 is 0.25 GiB; scipy's way takes 12 bytes a pair."""
    ours = forked(_measured, OURS, 1, 8192, 16, 0.05, 0)["peak_gib"]
    # it takes as much memory for an easy problem, and less time
    dense = forked(_measured, SCIPY, 1, 8192, 16, 0.95, 0)["peak_gib"]
    assert 0.25 < ours < 0.65
    assert dense > 0.75


@given(
    n_a=st.integers(1, 12),
    n_b=st.integers(1, 12),
    exponent=st.integers(-40, 40),
    shift=st.sampled_from([0.0, -0.5, -3.0]),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=100)
def test_a_float32_matrix_may_have_any_range(
    n_a: int, n_b: int, exponent: int, shift: float, seed: int
) -> None:
    scores = torch.rand(n_a, n_b, generator=torch.Generator().manual_seed(seed))
    scores = (scores + shift) * 2.0**exponent
    found = hungarian(scores)
    best = oracle.best_total(scores.double().numpy())
    largest = float(scores.abs().max())
    assert found.gap == 0
    assert found.similarity.dtype == torch.float32
    assert float(found.similarity.double().sum()) == pytest.approx(
        best, abs=1e-7 * largest * min(n_a, n_b)
    )


@given(
    n_a=st.integers(1, 12),
    n_b=st.integers(1, 12),
    exponent=st.integers(-990, 990),
    close=st.booleans(),
    lowest=st.sampled_from([0.0, -0.5, -3.0]),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=100)
def test_a_float64_matrix_keeps_its_digits_and_its_range(
    n_a: int, n_b: int, exponent: int, close: bool, lowest: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n_a, n_b, generator=generator, dtype=torch.float64)
    # entries that float32 could not tell from one another
    scores = (1 + 1e-7 * scores if close else scores) + lowest
    found = hungarian(scores * 2.0**exponent)
    assert found.gap == 0
    assert found.similarity.dtype == torch.float64
    total = float((found.similarity * 2.0**-exponent).sum())
    power = 2.0 ** np.ceil(np.log2(float(scores.abs().max())))
    step = power * (2**-30 if float(scores.min()) >= 0 else 2**-29)
    assert abs(total - oracle.best_total(scores.numpy())) <= 1.01 * min(n_a, n_b) * step
    chosen = found.partner.clamp(min=0)
    taken = torch.where(
        found.partner >= 0, scores[torch.arange(n_a), chosen] * 2.0**exponent, 0
    )
    assert float(((taken - found.similarity) * 2.0**-exponent).abs().max()) <= step


def test_differences_below_float32_decide() -> None:
    more = 1 + 3e-8
    assert hungarian(torch.tensor([[1, more], [more, 1]]).double()).gap == 0
    scores = torch.tensor([[1, more], [more, 1]], dtype=torch.float64)
    found = hungarian(scores)
    assert found.partner.tolist() == [1, 0]
    assert float(found.similarity.sum()) == pytest.approx(2 * more, abs=2**-28)
    assert found.gap == 0


@pytest.mark.parametrize("factor", [1e39, 1e300, -1e300, 1e-300])
def test_values_beyond_float32_are_matched(factor: float) -> None:
    scores = torch.tensor([[3, 2, 1], [3, 1, 2]], dtype=torch.float64) * factor
    found = hungarian(scores)
    best = oracle.best_total(scores.numpy())
    assert float(found.similarity.sum()) == pytest.approx(best, rel=1e-8)
    assert found.best.a_to_b.tolist() == pytest.approx(scores.amax(dim=1).tolist())
    assert found.gap == 0


@pytest.mark.parametrize("value", [1e305, -1e305, 1e-305])
def test_what_leaves_no_room_for_sums_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="largest entry of similarity is 1e.*Scale"):
        hungarian(torch.tensor([[value, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16])
def test_other_types_are_taken_as_numbers(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1, 0], [1, 1]]).to(dtype)
    assert hungarian(scores).partner.tolist() == [0, 1]
    shown = DenseWeights(scores)
    ((_, block),) = shown.blocks()
    assert shown.grid.similarity(block).tolist() == [[1, 0], [1, 1]]
