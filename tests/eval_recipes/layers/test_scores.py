"""Scores of latents and probes against slow versions, and on planted differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_recipes.layers.scores import (
    score_latents,
    score_probe,
    split_texts,
)
from eval_recipes.select.separation import Sides
from eval_recipes.statistics.auroc import auroc
from eval_recipes.statistics.interval import Array
from tests.oracles.layers_oracle import auroc_by_pairs, layer_score


def shares(n: int, d: int, seed: int, *, planted: int = 0, size: float = 0.3) -> Array:
    """Coarse shares of tokens, with ties; the first n // 2 texts have more of some latents."""
    generator = np.random.default_rng(seed)
    found = generator.integers(0, 6, (n, d)) / 10
    found[: n // 2, :planted] += size
    return found


@settings(max_examples=25, deadline=None)
@given(
    n_first=st.integers(4, 9),
    n_second=st.integers(4, 9),
    d=st.integers(3, 8),
    seed=st.integers(0, 99),
    sides=st.sampled_from(["first", "both"]),
)
def test_the_score_and_its_null_are_those_of_the_slow_version(
    n_first: int, n_second: int, d: int, seed: int, sides: Sides
) -> None:
    x = np.random.default_rng(seed).integers(0, 4, (n_first + n_second, d)) / 4
    parts = split_texts(n_first, n_second, permutations=2, seed=seed)
    found = score_latents(x, parts, n_latents=3, sides=sides)
    wanted = [
        layer_score(x, parts, n_latents=3, both=sides == "both", row=row)
        for row in range(3)
    ]
    assert found.interval.value == pytest.approx(wanted[0])
    assert found.null == pytest.approx(wanted[1:])
    assert found.n == n_first + n_second


def test_one_latent_has_delongs_interval_of_either_half() -> None:
    x = shares(80, 1, 3, planted=1, size=0.1)
    parts = split_texts(40, 40, permutations=0, seed=0)
    found = score_latents(x, parts, n_latents=1, sides="first")
    halves = [
        auroc(x[half.texts[: half.n_first], 0], x[half.texts[half.n_first :], 0])
        for half in parts
    ]
    assert found.interval.value == pytest.approx(np.mean([one.value for one in halves]))
    low, high = found.interval.ends
    # the mean of two independent halves is about as certain as all texts together
    whole = auroc(x[:40, 0], x[40:, 0]).ends
    assert high - low == pytest.approx(whole[1] - whole[0], rel=0.1)
    assert found.null_95 is None and found.p_value is None


def test_every_text_is_measured_once_by_the_other_half() -> None:
    one, other = split_texts(7, 10, permutations=0, seed=1)
    assert sorted([*one.texts, *other.texts]) == list(range(17))
    assert all(
        (half.texts[: half.n_first] < 7).all()
        and (half.texts[half.n_first :] >= 7).all()
        for half in (one, other)
    )


def test_planted_latents_are_chosen_and_chance_is_one_half() -> None:
    parts = split_texts(60, 60, permutations=200, seed=0)
    planted = score_latents(
        shares(120, 300, 1, planted=4), parts, n_latents=4, sides="first"
    )
    assert all(set(chosen) == {0, 1, 2, 3} for chosen in planted.chosen)
    assert planted.interval.value > 0.8
    assert planted.p_value == pytest.approx(1 / 201)
    chance = score_latents(shares(120, 300, 2), parts, n_latents=4, sides="both")
    low, high = chance.interval.ends
    assert low < 0.5 < high
    assert chance.null.mean() == pytest.approx(0.5, abs=0.02)
    assert planted.minus(chance).distinguishable


def test_latents_of_the_second_set_count_only_with_both_sides() -> None:
    x = shares(120, 50, 1, planted=1)
    parts = split_texts(60, 60, permutations=0, seed=0)
    turned = np.concatenate([x[60:], x[:60]])
    both = score_latents(turned, parts, n_latents=1, sides="both")
    assert both.interval.value > 0.8
    assert [int(sign[0]) for sign in both.signs] == [-1, -1]
    first = score_latents(turned, parts, n_latents=1, sides="first")
    assert first.interval.value < 0.7


def test_the_difference_is_paired_by_text() -> None:
    parts = split_texts(60, 60, permutations=0, seed=0)
    x = shares(120, 1, 3, planted=1, size=0.1)
    one = score_latents(x, parts, n_latents=1, sides="first")
    noisy = x.copy()
    noisy[::7] = 0.0
    other = score_latents(noisy, parts, n_latents=1, sides="first")
    difference = one.minus(other)
    assert difference.value == pytest.approx(one.interval.value - other.interval.value)
    low, high = difference.ends
    a, b = one.interval.ends
    assert high - low < b - a
    same = one.minus(one)
    assert (same.value, same.low) == (0.0, None) and same.reason


def test_a_perfect_separation_has_no_interval() -> None:
    parts = split_texts(8, 8, permutations=10, seed=0)
    x = np.repeat([[0.5], [0.0]], 8, axis=0) * np.ones(3)
    found = score_latents(x, parts, n_latents=3, sides="first").interval
    assert (found.value, found.low) == (1.0, None)
    assert found.reason is not None and "above every" in found.reason


def test_the_probe_is_scikit_learns_on_the_unrotated_columns() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 90)) * generator.uniform(0.1, 5, 90)
    x[:30] += 0.4
    parts = split_texts(30, 30, permutations=20, seed=0)
    found = score_probe(x, parts)
    from eval_recipes.select.separation import regression

    values: list[float] = []
    for fitted, half in (parts, parts[::-1]):
        spread = x[fitted.texts].std(0)
        model = regression().fit(x[fitted.texts] / spread, fitted.labels[0])
        scores = model.decision_function(x[half.texts] / spread)
        values.append(
            auroc_by_pairs(list(scores[: half.n_first]), list(scores[half.n_first :]))
        )
    assert found.interval.value == pytest.approx(np.mean(values), abs=0.01)
    assert found.interval.value > 0.7
    assert found.null.mean() == pytest.approx(0.5, abs=0.1)


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 4 or more"):
        split_texts(3, 10, permutations=0, seed=0)
