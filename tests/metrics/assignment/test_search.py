"""Shortest augmenting paths on sparse graphs, from any prices."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from saereg_plugin.metrics.assignment.search import (
    OUTSIDE,
    SINGLE,
    pop,
    push,
    transposed,
)
from saereg_plugin.metrics.assignment.solve import Edges, State
from tests.oracles import assignment_oracle as oracle

ABSENT = -(10**12)


def sparse(
    seed: int, n_a: int, n_b: int, largest: int, kept: float
) -> NDArray[np.int64]:
    """Weights [n_a, n_b], ``ABSENT`` where there is no edge."""
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, largest, (n_a, n_b))
    scores[draw.random((n_a, n_b)) > kept] = ABSENT
    return scores


def edges_of(scores: NDArray[np.int64]) -> Edges:
    pair = np.flatnonzero(scores.ravel() != ABSENT)
    return Edges(pair.astype(np.int64), scores.ravel()[pair].astype(np.int32))


def assert_optimal(state: State, scores: NDArray[np.int64]) -> None:
    u, v, mate, back = state.u, state.v, state.mate, state.back
    assert u.min() >= 0
    assert v.min() >= 0
    assert (u[:, None] + v - scores).min() >= 0
    rows = np.flatnonzero(mate != SINGLE)
    assert np.array_equal(back[mate[rows]], rows)
    assert (back != SINGLE).sum() == len(rows)
    total = scores[rows, mate[rows]].sum()
    assert total == u.sum() + v.sum() == oracle.heaviest_total(scores)


@given(
    seed=st.integers(0, 10_000),
    n_a=st.integers(1, 30),
    n_b=st.integers(1, 30),
    largest=st.sampled_from([2, 5, 100, 1 << 30]),
    kept=st.sampled_from([0.1, 0.5, 1.0]),
)
@settings(deadline=None, max_examples=200)
def test_optimal_from_nothing_and_from_another_graph(
    seed: int, n_a: int, n_b: int, largest: int, kept: float
) -> None:
    scores = sparse(seed, n_a, n_b, largest, kept)
    state = State(n_a, n_b)
    state.solve(edges_of(scores))
    assert_optimal(state, scores)
    more = np.maximum(scores, sparse(seed + 1, n_a, n_b, largest, kept))
    state.solve(edges_of(more))
    assert_optimal(state, more)


@given(seed=st.integers(0, 10_000), n_a=st.integers(1, 25), n_b=st.integers(1, 25))
@settings(deadline=None, max_examples=150)
def test_optimal_from_any_prices_and_any_matching(
    seed: int, n_a: int, n_b: int
) -> None:
    draw = np.random.default_rng(seed)
    scores = sparse(seed, n_a, n_b, 50, 0.6)
    state = State(n_a, n_b)
    state.v[:] = draw.integers(0, 60, n_b)
    pairs = int(draw.integers(0, min(n_a, n_b) + 1))
    rows, columns = draw.permutation(n_a)[:pairs], draw.permutation(n_b)[:pairs]
    state.mate[rows], state.back[columns] = columns, rows
    state.solve(edges_of(scores))
    assert_optimal(state, scores)


def test_completing_gives_single_rows_to_single_columns() -> None:
    state = State(4, 3)
    state.mate[1], state.back[2] = 2, 1
    assert state.completed().tolist() == [0, 2, 1, SINGLE]
    assert state.mate.tolist() == [SINGLE, 2, SINGLE, SINGLE]


def test_merging_keeps_the_first_weight_of_a_pair() -> None:
    edges = Edges(np.array([2, 5]), np.array([7, 8], np.int32))
    merged = edges.merged(np.array([5, 1]), np.array([9, 3], np.int32))
    assert merged.pair.tolist() == [1, 2, 5]
    assert merged.weight.tolist() == [3, 7, 8]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.data())
@settings(deadline=None, max_examples=100)
def test_heap_pops_in_order_even_after_keys_fell(
    keys: list[int], data: st.DataObject
) -> None:
    key = np.array(keys, np.int64)
    heap = np.empty(len(keys), np.int32)
    place = np.full(len(keys), OUTSIDE, np.int32)
    size = 0
    for node in range(len(keys)):
        size = push(heap, place, size, key, node)
    node = data.draw(st.integers(0, len(keys) - 1))
    key[node] -= data.draw(st.integers(0, 20))
    assert push(heap, place, size, key, node) == size
    popped = []
    while size:
        popped.append(int(key[pop(heap, place, size, key)]))
        size -= 1
    assert popped == oracle.sorted_by_heap(key.tolist())
    assert (place == OUTSIDE).all()


def test_transposed_is_scipys() -> None:
    scores = sparse(0, 7, 11, 100, 0.3)
    # scipy drops stored zeros in places; every weight here is above 0
    scores[scores == 0] = 1
    rows = csr_matrix(np.where(scores == ABSENT, 0, scores))
    start, other = rows.indptr.astype(np.int64), rows.indices.astype(np.int32)
    begin, back, weight = transposed(start, other, rows.data.astype(np.int32), 11)
    columns = rows.tocsc()
    assert np.array_equal(begin, columns.indptr)
    assert np.array_equal(back, columns.indices)
    assert np.array_equal(weight, columns.data)
