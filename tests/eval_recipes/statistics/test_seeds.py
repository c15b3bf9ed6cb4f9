import math
import re

import numpy as np
import pytest
from scipy import stats

from eval_recipes.statistics import seeds as statistics
from eval_recipes.statistics.interval import NO_VARIATION, Array, bootstrap, unseen
from eval_recipes.statistics.seeds import (
    bootstrap_mean_interval,
    paired_difference,
    seed_interval,
    seed_pair_interval,
)


@pytest.mark.parametrize("kind", ["continuous", "indicator"])
def test_bootstrap_equals_the_normal_approximation(kind: str) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(1, 2, 2000), generator.normal(3, 1, 500)
    if kind == "indicator":
        a, b = (a > 1).astype(float), (b > 2.5).astype(float)
    found = bootstrap_mean_interval(
        [a, b], weights=[0.5, 2.0], n_resamples=20_000, seed=1
    )
    error = math.sqrt(0.25 * a.var() / a.size + 4 * b.var() / b.size)
    assert found.value == pytest.approx(0.5 * a.mean() + 2 * b.mean())
    assert found.low is not None and found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.03)
    assert (found.high + found.low) / 2 == pytest.approx(found.value, abs=0.1 * error)
    assert found.n == 2000


def test_bootstrap_is_deterministic_and_follows_the_seed() -> None:
    values = np.random.default_rng(0).normal(size=300)
    first = bootstrap_mean_interval([values], seed=3)
    assert bootstrap_mean_interval([values], seed=3) == first
    assert bootstrap_mean_interval([values], seed=4) != first


def test_chunks_do_not_change_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=300)
    whole = bootstrap_mean_interval([values], n_resamples=500, seed=3)
    monkeypatch.setattr(statistics, "BOOTSTRAP_CHUNK_ELEMENTS", 7 * 300)
    chunked = bootstrap_mean_interval([values], n_resamples=500, seed=3)
    assert chunked.value == whole.value
    assert chunked.low == pytest.approx(whole.low, abs=0.03)


def test_a_wider_level_gives_a_wider_interval() -> None:
    values = np.random.default_rng(0).normal(size=300)
    narrow = bootstrap_mean_interval([values], seed=3, level=0.5)
    wide = bootstrap_mean_interval([values], seed=3, level=0.99)
    assert wide.low is not None and narrow.low is not None and wide.low < narrow.low


@pytest.mark.parametrize(("share", "n"), [(0.0, 20), (1.0, 20), (0.0, 1536)])
def test_shares_of_0_and_1_are_no_certainty(share: float, n: int) -> None:
    """Against the exact binomial interval, which is narrower by a term of order 1 / n^2."""
    found = bootstrap_mean_interval([[share] * n], caps=[1.0], seed=0)
    exact = stats.binomtest(round(share * n), n).proportion_ci(method="exact")
    assert found.low is not None and found.high is not None
    assert (found.low <= exact.low, found.high >= exact.high) == (True, True)
    assert found.low == pytest.approx(exact.low, abs=0.02)
    assert found.high == pytest.approx(exact.high, abs=0.02)
    assert min(abs(found.low - share), abs(found.high - share)) == 0


def test_equal_values_without_bounds_have_no_interval() -> None:
    found = bootstrap_mean_interval([[2.0, 2.0], [3.0]], seed=0)
    assert found == (2.5, None, None, 2, NO_VARIATION)
    with pytest.raises(ValueError, match="2 has no interval: all values are equal"):
        _ = found.ends
    with pytest.raises(ValueError, match="1 caps for 2"):
        bootstrap_mean_interval([[2.0], [3.0]], caps=[1.0], seed=0)


def test_bounds_of_unseen_values_cover_as_often_as_they_say() -> None:
    """A difference of shares of two samples, of which neither ever shows a case."""
    generator = np.random.default_rng(0)
    # the rate at which samples of 300 and 100 show nothing in one of 40
    p, n, weights = np.log(40) / 300, (300, 100), (1.0, -1.0)
    low, high = unseen([(w, 0.0, 1.0, k) for w, k in zip(weights, n, strict=True)])
    assert (low, high) == pytest.approx((np.log(40) / 100, np.log(40) / 300))
    blind = (generator.random((4000, n[0])) < p).sum(axis=1) == 0
    assert 0.015 < blind.mean() < 0.035
    # a value of .25 can go down by .25 and up by .75, weighted by 2
    assert unseen([(2.0, 0.25, 1.0, 1000)]) == pytest.approx(
        (2 * 0.25 * 3.688879e-3, 2 * 0.75 * 3.688879e-3)
    )
    # never beyond what is possible
    assert unseen([(1.0, 0.0, 1.0, 2), (0.5, 1.0, 1.0, 1)]) == (0.5, 1.0)


def test_a_sample_without_variation_widens_the_interval_of_the_others() -> None:
    values = (np.random.default_rng(0).random(500) < 0.2).astype(float)
    alone = bootstrap_mean_interval([values, [0.0] * 50], weights=[1, -1], seed=0)
    bounded = bootstrap_mean_interval(
        [values, [0.0] * 50], weights=[1, -1], caps=[1, 1], seed=0
    )
    assert alone.low is not None and bounded.low is not None
    assert bounded.high == alone.high
    assert bounded.low == pytest.approx(alone.low - np.log(40) / 50)


def test_a_resample_without_a_value_takes_the_interval() -> None:
    def share(weights: Array) -> Array:
        """Of two contexts out of 40 that have anything."""
        whole = weights[:, 0] + weights[:, 1]
        ratio = np.full(len(weights), np.nan)
        return np.divide(weights[:, 0], whole, out=ratio, where=whole > 0)

    found = bootstrap(share, 40, seed=0)
    assert found[:4] == (0.5, None, None, 40)
    # (1 - 2 / 40)^40 = 12.9 % of 1,000 resamples
    assert found.reason is not None
    undefined = re.fullmatch(r"(\d+) of 1000 resamples have no value", found.reason)
    assert undefined is not None and 90 < int(undefined[1]) < 170
    assert bootstrap(lambda w: w[:, 0] / w.sum(1), 40, seed=0).low == 0.0


@pytest.mark.parametrize("values", [[], [[]], [[1.0], []]])
def test_nothing_to_resample(values: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="empty"):
        bootstrap_mean_interval(values, seed=0)


def test_weights_must_fit() -> None:
    with pytest.raises(ValueError, match="2 weights for 1"):
        bootstrap_mean_interval([[1.0]], weights=[1, 2], seed=0)


def test_paired_difference_is_the_paired_t_test() -> None:
    a = {0: 1.0, 1: 2.5, 2: 3.0, 5: 4.5}
    b = {5: 3.0, 2: 2.0, 1: 1.0, 0: 0.5}
    found = paired_difference(a, b)
    expected = stats.ttest_rel([a[s] for s in a], [b[s] for s in a])
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.n == 4
    assert found.distinguishable == (expected.pvalue < 0.05)


def test_paired_difference_needs_the_same_seeds() -> None:
    with pytest.raises(ValueError, match="seeds differ"):
        paired_difference({0: 1.0}, {1: 1.0})


def test_one_seed_has_no_interval() -> None:
    found = seed_interval({3: 0.25})
    assert found[:4] == (0.25, None, None, 1)
    assert not found.distinguishable
    assert found.reason


def test_rounding_is_no_variation() -> None:
    """Equal differences of unequal floats differ by 1e-17 or so."""
    a, b = {0: 0.3, 1: 0.7, 2: 1000.1}, {0: 0.1, 1: 0.5, 2: 999.9}
    raw = [a[seed] - b[seed] for seed in a]
    assert 0 < max(raw) - min(raw) < 1e-12
    equal = paired_difference(a, b)
    assert equal.value == pytest.approx(0.2)
    assert equal[1:] == (None, None, 3, NO_VARIATION)
    assert seed_interval({0: 0.3, 1: 0.1 + 0.2}).reason == NO_VARIATION
    # what a figure in float32 gives is variation
    assert seed_interval({0: 0.3, 1: 0.3 + 1e-7}).low is not None
    assert seed_interval({0: 0.0, 1: 0.0}).reason == NO_VARIATION
    pairs = [(0, 1), (0, 2), (1, 2)]
    plus = {pair: 0.1 + 0.2 for pair in pairs} | {(0, 1): 0.3}
    assert len(set(plus.values())) == 2
    assert seed_pair_interval(plus).reason == NO_VARIATION


def test_jackknife_by_hand() -> None:
    """Delete-one values .5, .3, .1: variance 2/3 * (.04 + 0 + .04)."""
    found = seed_pair_interval({(0, 1): 0.1, (2, 0): 0.3, (1, 2): 0.5})
    half = 4.302653 * math.sqrt(2 / 3 * 0.08)
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half))
    assert found.n == 3


def test_jackknife_of_four_seeds_with_a_linear_kernel() -> None:
    """The mean of x_s + x_t over pairs is 2 mean(x): its jackknife error is exact."""
    x = {0: 0.3, 1: -1.0, 2: 2.0, 3: 0.7}
    found = seed_pair_interval({(s, t): x[s] + x[t] for s in x for t in x if s < t})
    assert found.low is not None and found.high is not None
    error = 2 * np.std(list(x.values()), ddof=1) / 2
    assert found.value == pytest.approx(2 * np.mean(list(x.values())))
    half = stats.t.ppf(0.975, 3) * error
    assert (found.high - found.low) / 2 == pytest.approx(half)


def test_two_seeds_are_never_distinguishable() -> None:
    found = seed_pair_interval({(0, 1): 0.8})
    assert (found.value, found.low, found.high, found.n) == (0.8, None, None, 1)
    assert not found.distinguishable
    assert found.reason == "two seeds give one pair, which has no spread"


def test_pairs_that_agree_are_distinguishable_from_zero() -> None:
    pairs = [(0, 1), (0, 2), (1, 2)]
    values = dict(zip(pairs, (0.40, 0.41, 0.39), strict=True))
    assert seed_pair_interval(values).distinguishable
    assert seed_pair_interval({k: -v for k, v in values.items()}).distinguishable
    assert not seed_pair_interval(dict.fromkeys(pairs, 0.0)).distinguishable


@pytest.mark.parametrize(
    "pairs", [{}, {(0, 1): 1.0, (1, 2): 1.0}, {(0, 1): 1.0, (1, 0): 1.0}, {(1, 1): 1.0}]
)
def test_pairs_must_be_complete(pairs: dict[tuple[int, int], float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        seed_pair_interval(pairs)
