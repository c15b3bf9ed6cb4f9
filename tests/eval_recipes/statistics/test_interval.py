"""Bootstrap of several statistics of the same contexts."""

from __future__ import annotations

import numpy as np

from eval_recipes.statistics.interval import (
    ONE_SAMPLE,
    Array,
    bootstrap,
    bootstrap_together,
)

N = 7


def test_statistics_together_have_the_intervals_they_have_alone() -> None:
    values = np.random.default_rng(0).normal(size=(2, N))

    def mean(w: Array) -> Array:
        return w @ values[0] / N

    def ratio(w: Array) -> Array:
        # nothing fires in a resample without context 0
        return np.where(w[:, 0] > 0, w @ values[1], np.nan)

    both = bootstrap_together({"mean": mean, "ratio": ratio}, N, seed=3)
    assert both == {
        "mean": bootstrap(mean, N, seed=3),
        "ratio": bootstrap(ratio, N, seed=3),
    }
    assert both["mean"].low is not None
    assert both["ratio"].reason is not None
    assert bootstrap_together({}, N, seed=3) == {}


def test_one_context_has_no_interval() -> None:
    found = bootstrap(lambda w: w @ np.array([2.0]), 1, seed=0)
    assert found == (2.0, None, None, 1, ONE_SAMPLE)
    assert not found.distinguishable
