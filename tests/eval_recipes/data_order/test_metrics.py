"""Metrics of weighted texts against texts that are really there several times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_recipes.data_order.clusters import adjusted_rand
from eval_recipes.data_order.metrics import METRICS, metric_values, spearman
from eval_recipes.data_order.probes import Predictions
from tests.oracles import data_order_oracle as oracle


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(6, 40),
    levels=st.integers(2, 12),
    metric=st.sampled_from([one for names in METRICS.values() for one in names]),
)
def test_a_metric_is_that_of_repeated_texts(
    seed: int, n: int, levels: int, metric: str
) -> None:
    generator = np.random.default_rng(seed)
    values = generator.integers(levels, size=n) / levels
    y = generator.permutation(np.arange(n) % 2).astype(np.float64)
    if metric in METRICS["difficulty"]:
        y = generator.permutation(np.arange(n) % levels).astype(np.float64)
    weights = generator.integers(0, 4, size=(3, n)).astype(np.float64)
    # each class and several values are there
    values[:4], y[:4], weights[:, :4] = (0, 1, 0, 1), (0, 1, 1, 0), 1
    found = metric_values(metric, Predictions(values, values), y, weights)
    expected = [oracle.metric(metric, values, y, row) for row in weights]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_equal_predictions_have_no_rank_correlation() -> None:
    weights = np.ones((2, 5))
    assert spearman(np.zeros(5), np.arange(5.0), weights).tolist() == [0, 0]
    assert np.isnan(spearman(np.arange(5.0), np.zeros(5), weights)).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(6, 16))
def test_the_rand_index_counts_pairs_of_different_groups(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.integers(3, size=(2, n))
    a[:4], b[:4] = (0, 0, 1, 1), (0, 1, 0, 1)
    groups = np.maximum(np.arange(n), 4) + generator.integers(3, size=n)
    groups[:4] = range(4)
    weights = generator.integers(0, 3, size=(2, n)).astype(np.float64)
    weights[:, :4] = 1
    found = adjusted_rand(a, b, groups, weights)
    lists = [one.tolist() for one in (a, b, groups)]
    expected = [oracle.adjusted_rand(*lists, row) for row in weights]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_same_clusters_under_other_names_agree() -> None:
    a = np.array([0, 0, 1, 1, 2])
    assert adjusted_rand(a, 2 - a, np.arange(5), np.ones((1, 5))) == pytest.approx(
        [1.0]
    )
