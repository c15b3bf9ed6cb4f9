"""Probes: a planted latent is found, chance is not, and no label is seen before its turn."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_recipes.data_order.features import KINDS
from eval_recipes.data_order.probes import Probe, shuffled
from eval_recipes.data_order.ridge import PENALTIES, Ridge
from eval_recipes.data_order.scores import CONSTANT, score_target
from tests.eval_recipes.data_order.planted import (
    OF_QUALITY,
    PLANTED,
    planted_features,
    planted_labels,
    planted_texts,
)
from tests.oracles import data_order_oracle as oracle


def scored(target: Any, y: Any, **given: Any) -> Any:
    texts = planted_texts()
    everything = np.arange(len(texts))
    return score_target(
        planted_features(texts),
        target,
        everything,
        y,
        texts.groups,
        seed=0,
        progress=lambda _: None,
        **{"permutations": 19, **given},
    )


@pytest.mark.parametrize(
    ("target", "latent"), [("difficulty", PLANTED), ("quality", OF_QUALITY)]
)
def test_a_planted_latent_is_found(target: Any, latent: int) -> None:
    y = getattr(planted_labels(planted_features(planted_texts())), target)
    found = scored(target, y)
    by_kind = {(one.metric, one.features): one for one in found.scores}
    metric = found.scores[0].metric
    sae = by_kind[metric, "sae"]
    assert sae.held_out.value > 0.85 and sae.p_value == 1 / 20
    assert sae.held_out.low is not None and sae.held_out.low > sae.null_high
    assert sae.held_out.n == 120
    for one in found.differences:
        if one.metric == metric:
            assert one.value.distinguishable and one.value.value > 0
            other = by_kind[metric, one.features].held_out.value
            assert one.value.value == pytest.approx(sae.held_out.value - other)
    weights = found.probes["sae"][0].predict(np.arange(0))[1]
    assert max(weights, key=lambda j: abs(weights[j])) == latent
    assert 3 not in weights


@pytest.mark.parametrize("target", ["difficulty", "quality"])
def test_labels_that_mean_nothing_score_as_shuffled_ones(target: Any) -> None:
    generator = np.random.default_rng(3)
    y = generator.permutation(np.arange(120) % (2 if target == "quality" else 30))
    found = scored(target, y.astype(np.float64))
    first = found.scores[0].metric
    own = [one for one in found.scores if one.metric == first]
    for one in own:
        assert one.p_value > 0.05
        if one.held_out.low is None:
            # the elastic net keeps no column
            assert one.held_out.reason == CONSTANT
            assert one.held_out.value == one.majority
            continue
        assert one.held_out.low < one.majority < one.held_out.high
        assert one.held_out.low < one.null_mean < one.held_out.high
    assert any(one.held_out.low is not None for one in own)
    assert not any(
        one.value.distinguishable for one in found.differences if one.metric == first
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["difficulty", "quality"])
def test_a_held_out_prediction_does_not_depend_on_its_group(
    target: Any, kind: Any
) -> None:
    texts = planted_texts(90, per_group=3)
    features = planted_features(texts)
    y = getattr(planted_labels(features), target)
    probe = Probe(*(features, kind, target, np.arange(90), y, texts.groups), seed=1)
    before = probe.held_out().values
    other = y.copy()
    other[texts.groups == 4] = 1 - other[texts.groups == 4]
    after = probe.held_out(other).values
    own = texts.groups == 4
    np.testing.assert_array_equal(before[own], after[own])
    if kind == "sae":
        assert (before != after).any()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(12, 30), d=st.integers(1, 40))
def test_the_ridge_is_that_of_scikit_learn(seed: int, n: int, d: int) -> None:
    generator = np.random.default_rng(seed)
    x, others = generator.normal(size=(n, d)), generator.normal(size=(5, d)) + 1
    y = generator.permutation(np.arange(n) % 3 == 0).astype(np.float64)
    inner = [(np.arange(n), np.arange(n))]
    found = Ridge(x, others, inner)
    values, weights = found.fit(y)
    penalty = found._penalty(y)
    assert penalty in PENALTIES
    expected = oracle.ridge(x, y, others, penalty)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
    changed = oracle.ridge(x, y, others + np.eye(5, d), penalty) - expected
    np.testing.assert_allclose(weights[:5], changed[:d], rtol=1e-5, atol=1e-6)


def test_a_ridge_without_both_classes_tells_nothing() -> None:
    x = np.random.default_rng(0).normal(size=(12, 3))
    found = Ridge(x, x, [(np.arange(6), np.arange(6, 12))]).fit(np.ones(12))
    assert found.values.tolist() == [0.5] * 12 and not found.weights.any()


def test_a_feature_that_does_not_vary_predicts_the_mean() -> None:
    texts = planted_texts(60)
    features = planted_features(texts)
    features.tokens[:] = 7
    y = np.arange(60.0)
    probe = Probe(
        features, "length", "difficulty", np.arange(60), y, texts.groups, seed=0
    )
    assert set(probe.held_out().centred) == {0.0}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 1000))
def test_shuffled_labels_are_the_same_labels(groups: list[int], seed: int) -> None:
    y = np.arange(len(groups)) * 1.0
    found = shuffled(y, np.array(groups), np.random.default_rng(seed))
    assert Counter(found) == Counter(y)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 1000))
def test_a_label_that_a_group_shares_stays_together(
    n_groups: int, size: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    groups = generator.permutation(np.repeat(np.arange(n_groups), size))
    found = shuffled(groups * 1.0, groups, generator)
    for group in range(n_groups):
        assert len(set(found[groups == group])) == 1
