"""Statistics of steering: against plain loops, a GEE and scipy, and where there are none."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from eval_recipes.steering.stats.association import (
    NO_SPREAD,
    associate,
    interaction,
    point_biserial,
    spearman,
    stability_link,
)
from eval_recipes.steering.stats.group_tests import (
    chi_square_yates,
    compare_groups,
    permutation_test,
    rate_over_seeds,
)
from eval_recipes.steering.stats.logistic import (
    CONSTANT,
    FEW_LATENTS,
    NO_CLUSTERED_ERROR,
    SEPARATED,
    fit_logistic,
    is_separated,
)
from eval_recipes.steering.stats.rates import (
    NO_SUCCESS,
    ONE_LATENT,
    Trials,
    make_trials,
    paired_difference,
    rate_difference,
    restricted,
    success_rate,
)
from tests.oracles import steering_statistics_oracle as oracle


def drawn(
    seed: int, n: int = 120, prompts: int = 3, base: float = -1.0, slope: float = 1.5
) -> tuple[Trials, NDArray[np.float64]]:
    """Latents with a score, a chance of their own, and dependent prompts."""
    generator = np.random.default_rng(seed)
    score = generator.random(n)
    own = generator.normal(size=n)
    chance = 1 / (1 + np.exp(-(base + slope * score + own)))
    counts = generator.integers(1, prompts + 1, size=n)
    latents = np.repeat(np.arange(n), counts)
    success = generator.random(len(latents)) < chance[latents]
    return make_trials(success.tolist(), (latents + 7).tolist()), score


def rows_of(trials: Trials) -> list[tuple[int, int]]:
    wins, counts = trials.by_latent()
    return [(int(k), int(n)) for k, n in zip(wins, counts, strict=True)]


def constant(n: int, success: bool) -> Trials:
    return make_trials([success] * n, list(range(n)))


def test_the_published_comparison() -> None:
    found = chi_square_yates(57, 900, 72, 555)
    # 57/900 against 72/555 by hand, with Yates' correction
    n, a, b, c, d = 1455, 57, 843, 72, 483
    square = n * (abs(a * d - b * c) - n / 2) ** 2 / (900 * 555 * (a + c) * (b + d))
    assert found.p_value == pytest.approx(stats.chi2.sf(square, 1))
    assert found.p_value == pytest.approx(2.3e-5, abs=5e-7)
    assert chi_square_yates(0, 5, 0, 9).p_value is None
    assert chi_square_yates(5, 5, 9, 9).p_value is None
    assert chi_square_yates(0, 0, 3, 9).reason == "a group has no trial"
    with pytest.raises(ValueError, match="successes <= trials"):
        chi_square_yates(6, 5, 1, 9)


def test_a_rate_is_resampled_by_latent() -> None:
    trials, _ = drawn(0)
    found = success_rate(trials, seed=1)
    assert found is not None and found.low is not None and found.high is not None
    assert found.value == trials.success.mean() and found.n == 120
    low, high = oracle.bootstrap_rates(rows_of(trials), 4000, 2)
    assert found.low == pytest.approx(low, abs=0.012)
    assert found.high == pytest.approx(high, abs=0.012)
    # three equal prompts say no more than one
    once = make_trials([True, False, False, True, False] * 8, list(range(40)))
    thrice = make_trials(
        np.repeat(once.success, 3).tolist(), np.repeat(once.latent, 3).tolist()
    )
    assert success_rate(once, seed=0) == success_rate(thrice, seed=0)


def test_a_rate_without_spread_has_a_reason() -> None:
    assert success_rate(make_trials([], []), seed=0) is None
    one = success_rate(make_trials([True, False], [3, 3]), seed=0)
    assert one is not None
    assert (one.value, one.low, one.reason) == (0.5, None, ONE_LATENT)
    with pytest.raises(ValueError, match="2 outcomes for 1 latents"):
        make_trials([True, False], [1])


def test_a_rate_of_0_or_1_has_what_so_many_latents_leave_open() -> None:
    for n in (9, 300):
        none = success_rate(constant(n, False), seed=0)
        every = success_rate(constant(n, True), seed=0)
        # by the binomial law a share of p stays unseen in n latents with (1 - p)^n
        bound = min(1.0, np.log(2 / 0.05) / n)
        assert none is not None and every is not None
        assert none == (0.0, 0.0, pytest.approx(bound), n, None)
        assert every == (1.0, pytest.approx(1 - bound), 1.0, n, None)
        # three prompts of a latent are no three latents
        thrice = Trials(np.zeros(3 * n, dtype=bool), np.repeat(np.arange(n), 3))
        assert success_rate(thrice, seed=0) == none


def test_an_interval_of_equal_latents_covers_the_rate() -> None:
    # latents that succeed once in 400: most samples of 100 show none of them
    generator = np.random.default_rng(0)
    covered = 0
    for repeat in range(200):
        success = np.repeat(generator.random(100) < 0.0025, 3)
        trials = Trials(success, np.repeat(np.arange(100), 3))
        found = success_rate(trials, seed=repeat, n_resamples=200)
        assert found is not None and found.low is not None and found.high is not None
        covered += found.low <= 0.0025 <= found.high
    assert covered >= 190


def test_the_interval_covers_the_rate() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for repeat in range(200):
        chance = generator.beta(
            0.6, 5.4, size=150
        )  # mean .1, strongly dependent prompts
        success = generator.random((150, 3)) < chance[:, None]
        trials = Trials(success.ravel(), np.repeat(np.arange(150), 3))
        found = success_rate(trials, seed=repeat, n_resamples=400)
        assert found is not None and found.low is not None and found.high is not None
        covered += found.low <= 0.1 <= found.high
    assert 178 <= covered <= 199


def test_differences_of_rates() -> None:
    (a, _), (b, _) = drawn(1, base=0.5), drawn(2, n=80, base=-2.0)
    found = rate_difference(a, b, seed=0)
    assert found is not None
    assert found.value == pytest.approx(a.success.mean() - b.success.mean())
    assert found.distinguishable and found.n == 200
    other = rate_difference(b, a, seed=0)
    assert other is not None and other.value == -found.value
    same = paired_difference(a, a, seed=0)
    assert same is not None and same.low is not None
    assert same.value == 0.0 and same.high == pytest.approx(np.log(40) / 120)
    assert same.low == pytest.approx(-np.log(40) / 120)
    # what is paired by latent has less spread than what is not
    control = Trials(a.success & (np.arange(a.success.size) % 5 > 0), a.latent)
    paired = paired_difference(a, control, seed=0)
    apart = rate_difference(a, control, seed=0)
    assert paired is not None and apart is not None
    assert paired.low is not None and paired.high is not None
    assert apart.low is not None and apart.high is not None
    assert paired.high - paired.low < (apart.high - apart.low) / 2
    nothing = rate_difference(constant(5, False), constant(6, False), seed=0)
    assert nothing is not None and nothing.low is not None and nothing.high is not None
    # of two samples without success either may hide some
    assert nothing.low == pytest.approx(-np.log(40) / 6)
    assert nothing.high == pytest.approx(np.log(40) / 5)
    one_sided = rate_difference(a, constant(60, False), seed=0)
    alone = success_rate(a, seed=0)
    assert one_sided is not None and one_sided.low is not None
    assert alone is not None and alone.low is not None
    # lower by what 60 latents without success leave open
    assert one_sided.low == pytest.approx(alone.low - np.log(40) / 60, abs=0.01)
    against_none = paired_difference(a, Trials(a.success & False, a.latent), seed=0)
    assert against_none is not None and against_none.low is not None
    assert against_none.low == pytest.approx(alone.low - np.log(40) / 120, abs=0.01)
    single = make_trials([True, False], [0, 0])
    lonely = rate_difference(a, single, seed=0)
    assert lonely is not None and (lonely.low, lonely.reason) == (None, ONE_LATENT)
    assert rate_difference(a, make_trials([], []), seed=0) is None
    with pytest.raises(ValueError, match="120 and 80 latents"):
        paired_difference(a, b, seed=0)


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_that_of_plain_loops(seed: int) -> None:
    trials, score = drawn(seed, n=90)
    generator = np.random.default_rng(seed)
    predictors = {
        "score": 1 + 10 * score[trials.latent],
        "other": generator.normal(size=trials.success.size),
    }
    found = fit_logistic(trials, predictors)
    expected = oracle.cluster_robust(trials.success, trials.latent, predictors)
    assert list(found.coefficients) == ["intercept", "score", "other"]
    assert (found.n_trials, found.n_latents) == (trials.success.size, 90)
    for name, coefficient in found.coefficients.items():
        for field in ("value", "se", "se_clustered", "low", "high", "p_value"):
            want = float(expected.loc[name, field])  # pyright: ignore[reportArgumentType]
            assert getattr(coefficient, field) == pytest.approx(want, rel=1e-6), field


def test_units_of_predictors_do_not_matter() -> None:
    trials, score = drawn(5)
    near = fit_logistic(trials, {"x": score[trials.latent]}).coefficients["x"]
    far = fit_logistic(trials, {"x": 1e4 + 1e-3 * score[trials.latent]}).coefficients[
        "x"
    ]
    assert far.value == pytest.approx(1e3 * near.value, rel=1e-5)
    assert far.se_clustered == pytest.approx(1e3 * near.se_clustered, rel=1e-5)
    assert far.p_value == pytest.approx(near.p_value, rel=1e-4)


def test_the_fit_is_a_gee_but_for_its_correction() -> None:
    trials, score = drawn(5, n=60)
    predictors = {"score": score[trials.latent]}
    found = fit_logistic(trials, predictors).coefficients["score"]
    params, errors = oracle.gee(trials.success, trials.latent, predictors)
    n = trials.success.size
    correction = (60 / 59 * (n - 1) / (n - 2)) ** 0.5
    assert found.value == pytest.approx(params[1], rel=1e-5)
    assert found.se_clustered == pytest.approx(errors[1] * correction, rel=1e-4)


def test_what_has_no_fit_says_why() -> None:
    latents = list(range(12))
    outcome = [i > 5 for i in latents]
    trials = make_trials(outcome, latents)
    line = np.arange(12.0)
    assert fit_logistic(trials, {"x": line}).reason == SEPARATED
    ties = np.where(line == 6, 5.0, line)  # separated but for a tie
    assert fit_logistic(trials, {"x": ties}).reason == SEPARATED
    overlap = np.where(line == 6, 4.5, line)
    assert fit_logistic(trials, {"x": overlap}).reason is None
    assert fit_logistic(trials, {"x": np.ones(12)}).reason == CONSTANT
    both = {"x": overlap, "y": 3 * overlap - 1}
    assert fit_logistic(trials, both).reason == CONSTANT
    assert fit_logistic(constant(9, False), {"x": np.arange(9)}).reason == NO_SUCCESS
    few = make_trials([True, False, True, False], [1, 1, 2, 2])
    assert fit_logistic(few, {"x": [0, 0, 1, 1]}).reason == FEW_LATENTS
    assert fit_logistic(few, {"x": [0, 0, 1, 1]}).coefficients == {}
    with pytest.raises(ValueError, match="finite predictors"):
        fit_logistic(trials, {"x": [np.nan] * 12})
    with pytest.raises(ValueError, match=r"shape \(12,\)"):
        fit_logistic(trials, {"x": [1.0]})


def test_errors_that_cancel_within_latents_are_no_interval() -> None:
    # every latent has the same share at each value: the scores of each sum to 0
    x = np.tile([0.0, 0.0, 1.0, 1.0, 1.0], 20)
    success = [False, True, False, True, True] * 20
    trials = make_trials(success, np.repeat(np.arange(20), 5).tolist())
    found = fit_logistic(trials, {"x": x})
    assert found.coefficients == {} and found.reason == NO_CLUSTERED_ERROR
    # one latent that differs is enough
    success[0] = True
    other = make_trials(success, np.repeat(np.arange(20), 5).tolist())
    assert fit_logistic(other, {"x": x}).coefficients["x"].se_clustered > 0


def test_a_figure_that_resamples_lack_has_no_interval() -> None:
    # one of 40 latents succeeds: a third of the resamples has none
    trials = make_trials([True] + [False] * 39, list(range(40)))
    score = np.arange(40.0)
    for found in (
        point_biserial(trials, score, seed=0),
        spearman(trials, score, seed=0),
    ):
        assert found.interval is not None and found.interval.low is None
        assert "of 2000 resamples have no value" in (found.interval.reason or "")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=12
    ).filter(lambda rows: len({x for x, _ in rows}) > 1)
)
def test_separation_on_a_line_is_found(rows: list[tuple[int, bool]]) -> None:
    x = np.array([x for x, _ in rows], dtype=float)
    y = np.array([y for _, y in rows])
    design = np.stack([np.ones_like(x), x / 4], axis=1)
    ones, zeros = x[y], x[~y]
    expected = (
        not len(ones)
        or not len(zeros)
        or ones.min() >= zeros.max()
        or zeros.min() >= ones.max()
    )
    assert is_separated(design, y) == expected


def test_whole_latents_are_permuted() -> None:
    (a, _), (b, _) = drawn(3, n=30, base=-0.5), drawn(4, n=22, base=-1.2)
    found = permutation_test(a, b, seed=0).p_value
    want = oracle.permutation_p(rows_of(a), rows_of(b), 4000, 1)
    assert found == pytest.approx(want, abs=0.03)
    assert permutation_test(b, a, seed=5).p_value == pytest.approx(want, abs=0.03)
    # more equal prompts of the same latents are no further evidence; chi-square thinks so
    many = [Trials(t.success.repeat(20), t.latent.repeat(20)) for t in (a, b)]
    assert permutation_test(many[0], many[1], seed=0).p_value == pytest.approx(
        want, abs=0.03
    )
    counts = [(int(t.success.sum()), t.success.size) for t in many]
    independent = chi_square_yates(*counts[0], *counts[1]).p_value
    assert independent is not None and independent < want / 10
    assert permutation_test(constant(5, True), constant(4, True), seed=0).reason
    assert permutation_test(constant(5, True), make_trials([], []), seed=0).reason
    opposite = permutation_test(constant(9, True), constant(9, False), seed=0).p_value
    assert opposite is not None and opposite < 0.001


def test_under_the_null_p_values_are_honest() -> None:
    rejected = 0
    generator = np.random.default_rng(11)
    for repeat in range(150):
        chance = generator.beta(0.5, 2.0, size=60)
        success = generator.random((60, 3)) < chance[:, None]
        whole = [
            Trials(part.ravel(), np.repeat(np.arange(30), 3))
            for part in (success[:30], success[30:])
        ]
        p = permutation_test(whole[0], whole[1], seed=repeat, n_permutations=199)
        rejected += (p.p_value or 1.0) <= 0.05
    assert rejected <= 15


def test_groups_are_compared_in_every_way() -> None:
    (a, _), (b, _) = drawn(6, n=150, base=0.0), drawn(7, n=150, base=-2.5)
    found = compare_groups(
        a,
        b,
        seed=0,
        seeds_a={0: 0.5, 1: 0.4, 2: 0.45},
        seeds_b={0: 0.2, 1: 0.3, 7: 0.0},
    )
    assert found.difference is not None and found.difference.distinguishable
    assert found.chi_square.p_value is not None and found.chi_square.p_value < 1e-3
    assert found.permutation.p_value == pytest.approx(1e-4)
    group = found.odds_ratio.coefficients["group"]
    rates = [t.success.mean() for t in (a, b)]
    odds = [p / (1 - p) for p in rates]
    assert group.value == pytest.approx(np.log(odds[0] / odds[1]))
    assert group.low > 0
    assert found.over_seeds is not None
    assert (found.over_seeds.value, found.over_seeds.n) == (pytest.approx(0.2), 2)
    nothing = compare_groups(a, constant(4, False), seed=0)
    assert nothing.odds_ratio.reason == SEPARATED and nothing.over_seeds is None
    assert nothing.permutation.p_value is not None
    assert rate_over_seeds({}) is None
    alone = rate_over_seeds({3: 0.2})
    assert alone is not None and alone.low is None and alone.reason


def test_correlations_are_scipys() -> None:
    trials, score = drawn(8, n=200, slope=4.0)
    score = np.round(score, 1)  # ties
    found = associate(trials, score, seed=0)
    wins, counts = trials.by_latent()
    rho, pair = found.spearman.interval, found.point_biserial.interval
    assert rho is not None and pair is not None
    ranks: Any = stats.spearmanr(score, wins / counts)
    assert rho.value == pytest.approx(ranks.statistic)
    biserial: Any = stats.pointbiserialr(trials.success, score[trials.latent])
    assert pair.value == pytest.approx(biserial.statistic)
    for interval in (rho, pair):
        assert interval.low is not None and interval.high is not None
        assert 0 < interval.low < interval.value < interval.high < 1
    slope = found.slope.coefficients["score"]
    want = oracle.cluster_robust(
        trials.success, trials.latent, {"score": score[trials.latent]}
    )
    assert slope.value == pytest.approx(want.loc["score", "value"], rel=1e-5)
    assert slope.se == pytest.approx(want.loc["score", "se"], rel=1e-5)
    # a shift and a change of unit change no correlation
    moved = point_biserial(trials, 1000 + 3 * score, seed=0).interval
    assert moved is not None and moved.value == pytest.approx(pair.value, rel=1e-6)


def test_correlations_that_do_not_exist_say_why() -> None:
    trials, score = drawn(9, n=12)
    assert spearman(trials, np.ones(12), seed=0).reason == NO_SPREAD
    assert point_biserial(constant(4, False), range(4), seed=0).reason == NO_SUCCESS
    halves = make_trials([True, False] * 4, [0, 0, 1, 1, 2, 2, 3, 3])
    assert "does not vary" in (spearman(halves, range(4), seed=0).reason or "")
    one = make_trials([True, False], [0, 0])
    assert spearman(one, [1.0], seed=0).reason == ONE_LATENT
    with pytest.raises(ValueError, match=r"\(3,\) scores for 12 latents"):
        spearman(trials, [1.0, 2.0, 3.0], seed=0)
    with pytest.raises(ValueError, match="finite scores"):
        spearman(trials, np.where(score > score.mean(), np.nan, 0), seed=0)


def test_slopes_of_two_groups() -> None:
    (a, score_a), (b, score_b) = (
        drawn(10, n=400, slope=4.0),
        drawn(11, n=400, slope=0.0),
    )
    found = interaction(a, score_a, b, score_b).coefficients
    alone = [
        fit_logistic(t, {"score": s[t.latent]}).coefficients["score"].value
        for t, s in ((a, score_a), (b, score_b))
    ]
    assert found["score"].value == pytest.approx(alone[1], abs=1e-6)
    assert found["score:group"].value == pytest.approx(alone[0] - alone[1], abs=1e-6)
    assert found["score:group"].low > 0
    reverse = interaction(b, score_b, a, score_a).coefficients["score:group"]
    assert reverse.value == pytest.approx(-found["score:group"].value)
    assert reverse.p_value == pytest.approx(found["score:group"].p_value)


def test_stability_is_told_from_the_score() -> None:
    trials, stability = drawn(12, n=500, slope=5.0, base=-2.5)
    generator = np.random.default_rng(0)
    # the score follows stability and has no effect of its own
    score = 0.5 * stability + 0.3 * generator.random(500)
    score[::10] = np.nan
    found = stability_link(trials, stability, score, seed=0)
    assert found.alone.coefficients["stability"].low > 0
    assert found.adjusted is not None and found.adjusted.n_latents == 450
    adjusted = found.adjusted.coefficients
    assert adjusted["stability"].low > 0
    assert adjusted["score"].low < 0 < adjusted["score"].high
    assert found.spearman.interval is not None and found.spearman.interval.value > 0.3
    assert stability_link(trials, stability, None, seed=0).adjusted is None
    same = stability_link(trials, np.zeros(500), None, seed=0)
    assert same.alone.reason == CONSTANT and same.spearman.reason == NO_SPREAD


def test_trials_of_some_latents() -> None:
    trials = make_trials([True, False, True, False], [4, 5, 4, 6])
    part = restricted(trials, np.array([True, False, True]))
    assert part.success.tolist() == [True, True, False]
    assert part.latent.tolist() == [0, 0, 1]


def test_the_same_seed_gives_the_same_figures() -> None:
    trials, score = drawn(13)
    other, _ = drawn(14)
    first, second, third = (associate(trials, score, seed=s) for s in (0, 0, 1))
    assert first == second and first.spearman != third.spearman
    tests = [permutation_test(trials, other, seed=s) for s in (0, 0, 1)]
    assert tests[0] == tests[1]
    rates = [success_rate(trials, seed=s) for s in range(3)]
    assert all(a != b for a, b in pairwise(rates))
