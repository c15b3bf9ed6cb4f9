"""A figure of one group minus another's, by seeds and by pairs of seeds."""

from __future__ import annotations

from itertools import combinations

import pytest
from scipy.stats import ttest_rel

from eval_recipes.results.differences import group_minus_other, listed_values
from eval_recipes.statistics.seeds import FEW_SEEDS, seed_pair_interval


def test_seeds_that_both_have_are_paired() -> None:
    a = {0: 0.8, 1: 0.7, 2: 0.95, 7: 3.0}
    b = {2: 0.9, 1: 0.5, 0: 0.65, 5: -1.0}
    found = group_minus_other(a, b)
    assert found is not None
    test = ttest_rel([0.8, 0.7, 0.95], [0.65, 0.5, 0.9]).confidence_interval()
    assert found.interval.value == pytest.approx((0.15 + 0.2 + 0.05) / 3)
    assert found.interval.ends == pytest.approx((test.low, test.high))
    assert [seeds for seeds, _ in found.values] == [(0,), (1,), (2,)]
    assert [value for _, value in found.values] == pytest.approx([0.15, 0.2, 0.05])
    assert (found.interval.n, found.freedom) == (3, 2)
    assert listed_values(found.values)[1] == {
        "seeds": [1],
        "difference": pytest.approx(0.2),
    }


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_pairs_of_seeds_have_an_interval_from_five_seeds_on(n_seeds: int) -> None:
    pairs = list(combinations(range(n_seeds), 2))
    a = {pair: 0.5 + 0.01 * sum(pair) for pair in pairs}
    b = {pair: 0.1 * (pair[0] == 0) for pair in reversed(pairs)}
    found = group_minus_other(a, b)
    assert found is not None
    assert found.values == tuple((pair, a[pair] - b[pair]) for pair in pairs)
    whole = seed_pair_interval(dict(found.values))
    if n_seeds == 5:
        assert found.interval == whole
    else:
        assert found.interval == whole._replace(low=None, high=None, reason=FEW_SEEDS)
    assert found.freedom == n_seeds - 1


def test_groups_without_a_common_seed_have_no_difference() -> None:
    assert group_minus_other({0: 1.0}, {1: 1.0}) is None
    assert group_minus_other({(0, 1): 1.0}, {(1, 2): 1.0}) is None
