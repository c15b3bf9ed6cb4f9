"""The threshold common to compared SAEs: what it is, and that tests over latents need it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from eval_recipes.steering.judges.protocol import Threshold, calibrate
from eval_recipes.steering.stats.compare import (
    SteeredGroup,
    common_threshold,
    rejudged,
    seed_excesses,
    with_common_thresholds,
)
from eval_recipes.steering.stats.figures import arm, trials_of, with_verdict
from eval_recipes.steering.stats.group_tests import (
    difference_over_seeds,
    permutation_test,
)
from eval_recipes.steering.stats.rates import Trials
from saereg_plugin.errors import InputError

JUDGE = "log_probability"


def table(sae: str, arms: dict[str, list[float]]) -> pd.DataFrame:
    """Scores by arm; three rows of steered text, or two of calibration, are one latent's."""
    parts: list[pd.DataFrame] = []
    for name, scores in arms.items():
        each = 2 if name == "calibration" else 3
        parts.append(
            pd.DataFrame(
                {
                    "sae": sae,
                    "arm": name,
                    "amount": float("nan") if name == "calibration" else 5.0,
                    "latent": np.arange(len(scores)) // each,
                    f"{JUDGE}_score": scores,
                    f"{JUDGE}_success": [None] * len(scores),
                    f"{JUDGE}_status": "judged",
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def group(name: str, texts: pd.DataFrame, **settings: Any) -> SteeredGroup:
    config = {"judges": ["chat", JUDGE], "false_positive_rate": 0.25, **settings}
    return SteeredGroup(name, ({"eval_config": config},), texts)


def both_orders(scores: list[float]) -> list[float]:
    return [signed for score in scores for signed in (score, -score)]


def test_the_threshold_is_learned_from_all_saes_together() -> None:
    steered = [0.15, 0.25, float("nan")]
    a = table("a", {"steered": steered, "calibration": both_orders([0.1, 0.2])})
    b = table("b", {"steered": steered, "calibration": both_orders([0.3, 0.4])})
    own = [calibrate(both_orders(s), 0.25).value for s in ([0.1, 0.2], [0.3, 0.4])]
    assert own == [0.1, 0.3]
    groups, found = with_common_thresholds([group("none", a), group("l2", b)])
    # two of the eight scores may exceed it: .4 and .3
    assert list(found) == [JUDGE]
    assert found[JUDGE].value == 0.2 and found[JUDGE].achieved == 0.25
    assert (found[JUDGE].n, found[JUDGE].n_clusters) == (8, 4)
    for one in groups:
        said = arm(one.texts, JUDGE, "steered", 5.0)[f"{JUDGE}_success"].tolist()
        assert said == [False, True, None]
    # what was given stays as it was
    assert set(a[f"{JUDGE}_success"]) == {None}


def test_without_calibration_there_is_no_comparison() -> None:
    a = table("lab/a", {"steered": [0.1], "calibration": both_orders([0.1, 0.2])})
    b = table("lab/b", {"steered": [0.1], "calibration": [float("nan")] * 2})
    for lacking in (b, b.loc[b["arm"] == "steered"]):
        with pytest.raises(InputError, match="SAE 'lab/b' hold no unsteered pairs"):
            with_common_thresholds([group("none", a), group("l2", lacking)])
    with pytest.raises(InputError, match="differ in 'false_positive_rate'"):
        with_common_thresholds(
            [group("none", a), group("l2", a, false_positive_rate=0.1)]
        )
    # a chat model learns none
    only = {"judges": ["chat"]}
    groups, found = with_common_thresholds([group("none", b, **only)])
    assert found == {} and groups[0].texts is b


def unsteered(texts: pd.DataFrame) -> list[float]:
    return texts.loc[texts["arm"] == "calibration", f"{JUDGE}_score"].tolist()


def trials(texts: pd.DataFrame, threshold: Threshold) -> Trials:
    judged = rejudged(texts, {JUDGE: threshold})
    return trials_of(with_verdict(arm(judged, JUDGE, "steered", 5.0), JUDGE), JUDGE)


def test_groups_that_do_not_differ_are_told_apart_at_the_stated_rate_only() -> None:
    generator = np.random.default_rng(0)
    repeats = 150
    rejected = {"common": 0, "own": 0}
    for repeat in range(repeats):
        tables = [
            table(
                sae,
                {
                    "steered": generator.normal(size=300).tolist(),
                    "calibration": both_orders(generator.normal(size=100).tolist()),
                },
            )
            for sae in ("a", "b")
        ]
        common = common_threshold(tables, JUDGE, 0.05)
        own = [calibrate(unsteered(one), 0.05) for one in tables]
        for name, thresholds in (("common", [common, common]), ("own", own)):
            a, b = map(trials, tables, thresholds)
            found = permutation_test(a, b, seed=repeat, n_permutations=199)
            assert found.p_value is not None
            rejected[name] += found.p_value <= 0.05
    # 150 tests at .05: 7.5 expected, 16 or more have a chance of .4 %
    assert 1 <= rejected["common"] <= 15, rejected
    # each SAE's own threshold moves all its latents alike, which is no difference of SAEs
    assert rejected["own"] > 15, rejected


def seeded(name: str, spread: float, generator: np.random.Generator) -> SteeredGroup:
    """Three SAEs whose steering does nothing; their scores have this standard deviation."""

    def drawn(n: int) -> list[float]:
        return (spread * generator.normal(size=n)).tolist()

    tables: list[pd.DataFrame] = []
    for seed in range(3):
        arms = {"steered": drawn(300), "random": drawn(300)}
        texts = table(f"{name}{seed}", {**arms, "calibration": both_orders(drawn(100))})
        texts["prompt"] = texts.groupby(["arm", "latent"]).cumcount()
        tables.append(texts.assign(seed=seed, repeat=0, interp_score=float("nan")))
    return group(name, pd.concat(tables, ignore_index=True), false_positive_rate=0.05)


def test_scores_that_spread_more_are_no_better_steering() -> None:
    """One threshold passes more of the texts whose scores spread more; less control it does not."""
    generator = np.random.default_rng(1)
    repeats = 20
    alone = beyond = 0
    for _ in range(repeats):
        groups = [seeded("none", 1.0, generator), seeded("l2", 1.5, generator)]
        (none, l2), _found = with_common_thresholds(groups)
        p = permutation_test(
            *(
                trials_of(
                    with_verdict(arm(one.texts, JUDGE, "steered", 5.0), JUDGE), JUDGE
                )
                for one in (l2, none)
            ),
            seed=0,
            n_permutations=199,
        ).p_value
        excess = difference_over_seeds(
            *(seed_excesses(one, JUDGE, 5.0) for one in (l2, none))
        )
        assert p is not None and excess is not None
        alone += p <= 0.05
        assert excess.low is not None and excess.high is not None
        beyond += not excess.low <= 0 <= excess.high
    assert alone == repeats
    # 20 intervals at .95: 1 expected, 5 or more have a chance of .3 %
    assert beyond <= 4, beyond
