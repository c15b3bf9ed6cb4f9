"""The jackknife over blocks against the textbook, and where it gives no interval."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import t as student_t

from eval_recipes.statistics.blocks import (
    block_interval,
    blocks_of,
    half_interval,
    halves_of,
)


def test_of_a_mean_of_equal_blocks_it_is_the_t_interval_of_the_block_means() -> None:
    means = np.random.default_rng(0).normal(size=8)
    without = [float(np.delete(means, b).mean()) for b in range(8)]
    found = block_interval(float(means.mean()), without, 80)
    assert found is not None
    error = means.std(ddof=1) / math.sqrt(8)
    low, high = student_t.interval(0.95, 7, loc=means.mean(), scale=error)
    assert found.ends == pytest.approx((low, high))
    assert found.n == 80


def test_the_interval_covers_the_mean_in_about_95_of_100_samples() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        values = generator.exponential(size=200)
        parts = [values[block] for block in blocks_of(200, 20)]
        without = [
            float((values.sum() - part.sum()) / (200 - len(part))) for part in parts
        ]
        found = block_interval(float(values.mean()), without, 200)
        assert found is not None
        low, high = found.ends
        hits += low <= 1.0 <= high
    assert 0.91 < hits / 400 < 0.98


@pytest.mark.parametrize(
    ("n", "blocks", "sizes"), [(10, 3, {3, 4}), (2, 5, {1}), (0, 4, set[int]())]
)
def test_blocks_cover_everything_once(n: int, blocks: int, sizes: set[int]) -> None:
    found = blocks_of(n, blocks)
    assert [k for block in found for k in range(n)[block]] == list(range(n))
    assert {block.stop - block.start for block in found} == sizes


def test_without_a_value_or_spread_there_is_no_interval() -> None:
    assert block_interval(math.nan, [1.0] * 5, 10) is None
    for without, reason in (
        ([1.0, 2.0, 3.0, 4.0], "fewer than 5 blocks"),
        ([1.0, math.nan, 2.0, 3.0, math.nan], "without 2 of 5 blocks"),
        ([1.0] * 5, "all values are equal"),
    ):
        found = block_interval(1.0, without, 10)
        assert found is not None and found.low is None
        assert found.reason is not None and reason in found.reason


def test_halves_keep_whole_blocks_and_differ() -> None:
    found = [*halves_of(21, 7, draws=50, seed=0)]
    for kept in found:
        assert kept.sum() == 12 and {*kept.reshape(7, 3).sum(1)} == {0, 3}
    assert len({kept.tobytes() for kept in found}) > 20
    again = [*halves_of(21, 7, draws=50, seed=0)]
    assert all((a == b).all() for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("blocks", [8, 9])
def test_over_all_halves_of_a_mean_it_is_the_t_interval_of_the_block_means(
    blocks: int,
) -> None:
    means = np.random.default_rng(0).normal(size=blocks)
    left_out = combinations(range(blocks), blocks // 2)
    halves = [float(np.delete(means, out).mean()) for out in left_out]
    found = half_interval(float(means.mean()), halves, blocks, 80)
    assert found is not None
    error = means.std(ddof=1) / math.sqrt(blocks)
    expected = student_t.interval(0.95, blocks - 1, loc=means.mean(), scale=error)
    assert found.ends == pytest.approx(expected)


def test_without_a_value_of_every_half_there_is_no_interval() -> None:
    assert half_interval(math.nan, [1.0, 2.0], 5, 10) is None
    for halves, blocks, reason in (
        ([1.0, 2.0], 4, "fewer than 5 blocks"),
        ([1.0, math.nan], 5, "1 of 2 halves"),
        ([1.0], 5, "no spread"),
        ([1.0, 1.0], 5, "all values are equal"),
    ):
        found = half_interval(1.0, halves, blocks, 10)
        assert found is not None and found.low is None
        assert found.reason is not None and reason in found.reason
