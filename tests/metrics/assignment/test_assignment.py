"""The assignment is exact at every size, and says so truthfully."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saereg_plugin.metrics import certify, match_rows
from saereg_plugin.metrics.assignment.scan import compiled
from saereg_plugin.metrics.assignment.solve import assign
from saereg_plugin.metrics.assignment.weights import RowWeights
from saereg_plugin.metrics.matching import hungarian
from tests.metrics.assignment.problems import KINDS, ROUNDING, certified, problem, whole
from tests.oracles import assignment_oracle as oracle


def sizes(most: int) -> st.SearchStrategy[int]:
    """Numbers of rows from 1 to ``most``, on a logarithmic scale."""
    return st.floats(0, math.log2(most)).map(lambda exponent: round(2**exponent))


def assert_exact(a: Tensor, b: Tensor, *, absolute: bool, candidates: int) -> int:
    """Compare with scipy in whole numbers and in float64; return the rounds taken."""
    weights = RowWeights(a, b, absolute=absolute)
    found = assign(weights, candidates=candidates)
    dense = whole(weights)
    matched = np.flatnonzero(found.partner >= 0)
    columns = found.partner[matched]
    assert len(matched) == len(set(columns.tolist())) == min(len(a), len(b))
    assert found.gap == 0
    assert dense[matched, columns].sum() == oracle.best_total(dense)
    scores = oracle.similarity(
        a.double().numpy(), b.double().numpy(), absolute=absolute
    )
    assert np.abs(weights.grid.similarity(dense) - scores).max() < ROUNDING
    np.testing.assert_allclose(
        found.similarity[matched], scores[matched, columns], rtol=0, atol=ROUNDING
    )
    assert not found.similarity[found.partner < 0].any()
    proof = certified(a, b, found, absolute=absolute)
    assert proof.gap == 0
    assert np.array_equal(proof.similarity, found.similarity)
    return found.rounds


@given(
    kind=st.sampled_from(KINDS),
    n_a=sizes(256),
    n_b=sizes(256),
    d=st.integers(1, 8),
    absolute=st.booleans(),
    candidates=st.sampled_from([1, 2, 3, 16]),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=200)
def test_equals_scipy_at_any_size(
    kind: str,
    n_a: int,
    n_b: int,
    d: int,
    absolute: bool,
    candidates: int,
    seed: int,
) -> None:
    a, b = problem(kind, n_a, n_b, d, seed)
    assert_exact(a, b, absolute=absolute, candidates=candidates)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_a", "n_b"), [(512, 512), (300, 512), (512, 450)])
def test_equals_scipy_on_larger_problems(kind: str, n_a: int, n_b: int) -> None:
    a, b = problem(kind, n_a, n_b, 16, 1)
    assert_exact(a, b, absolute=True, candidates=8)
    assert_exact(a, b, absolute=False, candidates=8)


@pytest.mark.parametrize(
    ("kind", "rounds"), [("random", 2), ("planted", 2), ("zeros", 1)]
)
def test_equals_scipy_at_2048(kind: str, rounds: int) -> None:
    """The first candidates do not do for the first two: pairs have to be added."""
    a, b = problem(kind, 2048, 2048, 64, 2)
    assert assert_exact(a, b, absolute=True, candidates=16) >= rounds


@pytest.mark.slow
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize(("n_a", "n_b"), [(2048, 2048), (2048, 1500), (1500, 2048)])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_scipy_at_2048_whatever_the_problem(
    kind: str, n_a: int, n_b: int, absolute: bool
) -> None:
    a, b = problem(kind, n_a, n_b, 64, 3)
    assert_exact(a, b, absolute=absolute, candidates=16)


@pytest.mark.parametrize("absolute", [True, False])
def test_equal_rows_do_not_cost_a_round_each(absolute: bool) -> None:
    rows = torch.ones(700, 3)
    assert assert_exact(rows, rows, absolute=absolute, candidates=16) <= 3
    a, b = problem("duplicates", 1024, 1024, 64, 3)
    assert assert_exact(a, b, absolute=absolute, candidates=16) <= 12


def test_a_permuted_dictionary_is_found_again() -> None:
    a, _ = problem("random", 1500, 1, 32, 4)
    order = torch.randperm(1500, generator=torch.Generator().manual_seed(0))
    found = match_rows(a, a[order])
    assert torch.equal(order[found.partner], torch.arange(1500))
    assert found.gap == 0
    assert found.mean == pytest.approx(1, abs=1e-6)


@given(seed=st.integers(0, 10_000), n_a=st.integers(2, 60), n_b=st.integers(2, 60))
@settings(deadline=None, max_examples=40)
def test_order_scale_and_sign_do_not_matter(seed: int, n_a: int, n_b: int) -> None:
    a, b = problem("random", n_a, n_b, 24, seed)
    generator = torch.Generator().manual_seed(seed)
    order_a = torch.randperm(n_a, generator=generator)
    order_b = torch.randperm(n_b, generator=generator)
    factor = torch.randn(n_a, 1, generator=generator)
    found = match_rows(a, b)
    changed = match_rows((a * factor)[order_a], b[order_b])
    reverse = match_rows(b, a)
    total = float(found.similarity.double().sum())
    for other in (changed, reverse):
        assert other.gap == 0
        assert float(other.similarity.double().sum()) == pytest.approx(
            total, abs=ROUNDING * n_a
        )
    partner = torch.where(
        changed.partner >= 0, order_b[changed.partner.clamp(min=0)], -1
    )
    assert torch.equal(partner, found.partner[order_a])


@pytest.mark.parametrize(
    ("n_a", "n_b"), [(0, 0), (0, 3), (3, 0), (1, 1), (1, 3), (3, 1)]
)
def test_the_smallest_problems(n_a: int, n_b: int) -> None:
    a, b = torch.eye(3)[:n_a], torch.eye(3)[:n_b]
    found = match_rows(a, b)
    assert int((found.partner >= 0).sum()) == min(n_a, n_b)
    assert (found.gap, found.relative_gap) == (0, 0)
    assert certify(a, b, found.partner, found.prices).gap == 0
    assert len(hungarian(torch.ones(n_a, n_b)).partner) == n_a
    largest = 1.0 if min(n_a, n_b) else 0.0
    assert hungarian(torch.ones(n_a, n_b)).best.a_to_b.tolist() == [largest] * n_a
    assert hungarian(torch.ones(n_a, n_b)).best.b_to_a.tolist() == [largest] * n_b


def test_a_loop_whose_code_cannot_be_cached_is_compiled_all_the_same() -> None:
    namespace: dict[str, object] = {}
    # numba finds no folder for the cache of a function that comes from no file
    exec("def double(value):\n    return 2 * value", namespace)
    double = compiled(namespace["double"])  # pyright: ignore[reportArgumentType]
    assert double(21) == 42
