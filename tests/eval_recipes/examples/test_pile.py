"""Piles and histograms against plain sorting and counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_recipes.examples.histogram import BINS, Histogram, bin_of, lower_edges
from eval_recipes.examples.pile import Found, Pile
from tests.oracles import examples_oracle as oracle

N_LATENTS = 4
PAIRS = st.lists(
    st.tuples(st.integers(0, N_LATENTS - 1), st.integers(0, 5)), max_size=60
)
VALUES = st.floats(2.0**-11, 2.0**15, width=32)


def found(pairs: list[tuple[int, int]], first: int) -> Found:
    latent = np.array([pair[0] for pair in pairs], np.int64)
    key = np.array([pair[1] for pair in pairs], np.int64)
    token = np.arange(first, first + len(pairs))
    return Found(latent, key, token, token[:, None].astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(pairs=PAIRS, cuts=st.lists(st.integers(0, 60), max_size=5), n=st.integers(0, 4))
def test_a_pile_keeps_the_lowest_keys_and_of_equal_ones_the_first(
    pairs: list[tuple[int, int]], cuts: list[int], n: int
) -> None:
    pile = Pile(N_LATENTS, n, 1, least_slack=0)
    edges = [0, *sorted(min(cut, len(pairs)) for cut in cuts), len(pairs)]
    for start, end in zip(edges, edges[1:], strict=False):
        part = found(pairs[start:end], start)
        pile.add(part.at(pile.wants(part.latent, part.key)))
    kept = pile.found()
    expected: list[tuple[int, int, int]] = []
    for latent in range(N_LATENTS):
        mine = [(latent, key, t) for t, (j, key) in enumerate(pairs) if j == latent]
        expected += sorted(mine)[:n]
    assert list(zip(*(column.tolist() for column in kept[:3]), strict=True)) == expected
    assert kept.window[:, 0].tolist() == kept.token.tolist()


def test_a_pile_holds_a_bounded_number_of_tokens() -> None:
    pile = Pile(2, 3, 1, least_slack=4)
    held: list[int] = []
    for first in range(0, 3000, 30):
        # ever lower keys, so that every token is wanted
        pile.add(found([(t % 2, 3000 - t) for t in range(first, first + 30)], first))
        held.append(sum(len(part.key) for part in pile._parts))
    assert max(held) <= 2 * 3 + 4
    assert pile.found().token.tolist() == [2998, 2996, 2994, 2999, 2997, 2995]


@settings(max_examples=60, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=40), n=st.integers(1, 5))
def test_counts_and_bands_are_those_of_plain_loops(values: list[float], n: int) -> None:
    numbers = np.array(values, np.float32)
    histogram = Histogram(3)
    latents = np.full(len(values), 1, np.int64)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        histogram.add(latents[half], numbers[half])
    edges, counts = histogram.linear(np.array([0.0, max(values), 0.0]))
    assert (edges[0], counts[0], edges[2]) == ([], [], [])
    assert (edges[1], counts[1]) == oracle.linear_histogram(values)
    bands = histogram.bands(latents, numbers, n).tolist()
    for value, band in zip(values, bands, strict=True):
        own = oracle.sixteenth(value)
        below = sum(oracle.sixteenth(v) < own for v in values)
        same = sum(oracle.sixteenth(v) == own for v in values)
        assert band == min((2 * below + same) * n // (2 * len(values)), n - 1)


def test_values_beyond_the_bins_are_counted_in_the_outer_ones() -> None:
    tiny, huge = np.float32(1e-12), np.float32(3e8)
    assert bin_of(np.array([tiny, huge])).tolist() == [0, BINS - 1]
    histogram = Histogram(2)
    histogram.add(np.array([0, 1, 1]), np.array([tiny, tiny, huge]))
    edges, counts = histogram.linear(np.array([float(tiny), float(huge)]))
    assert counts == [[1], [1, *[0] * 30, 1]]
    assert edges[1][-1] == float(huge)
    assert edges[0][0] == 0 < float(tiny) < edges[0][1]


def test_a_bin_holds_what_lies_between_its_edges() -> None:
    edges = lower_edges()[1:].astype(np.float32)
    assert bin_of(edges).tolist() == list(range(1, BINS))
    assert bin_of(np.nextafter(edges, np.float32(0))).tolist() == list(range(BINS - 1))


@pytest.mark.parametrize("n", [0, 2])
def test_an_empty_pile_is_empty(n: int) -> None:
    assert len(Pile(3, n, 5).found().key) == 0
