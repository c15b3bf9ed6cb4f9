"""Stability and success over groups: confounding groups, and latents that match across seeds."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eval_recipes.steering.stats.matched import (
    Support,
    matched_latents,
    pooled_stability,
)
from tests.oracles import steering_statistics_oracle as oracle


def table(seed: int, *, within: float, between: float, n: int = 200) -> pd.DataFrame:
    """Two groups; stability has an effect within them, and the groups one of their own."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number, group in enumerate(("none", "l2")):
        for latent in range(n):
            # the second group is more stable
            stability = float(np.clip(generator.normal(0.3 + 0.4 * number, 0.15), 0, 1))
            odds = -1.5 + within * stability + between * number + generator.normal()
            rows += [
                {
                    "group": group,
                    "sae": f"{group}-s0",
                    "seed": 0,
                    "latent": latent,
                    "shared_with": "{}",
                    "stability": stability,
                    "interp_score": None,
                    "won": generator.random() < 1 / (1 + np.exp(-odds)),
                }
                for _ in range(3)
            ]
    return pd.DataFrame(rows)


def test_a_difference_of_groups_is_not_an_effect_of_stability() -> None:
    fooled = wrong = 0
    effects: list[float] = []
    for seed in range(20):
        found = pooled_stability(table(seed, within=0.0, between=2.0, n=80), "won")
        assert found is not None and found.adjusted is None
        fooled += found.alone.coefficients["stability"].low > 0
        honest = found.within.coefficients["stability"]
        wrong += not honest.low < 0 < honest.high
        effects.append(found.within.coefficients["group l2"].value)
    # 95 % intervals: more than 4 wrong ones of 20 have a chance of .3 %
    assert fooled == 20 and wrong <= 4
    assert np.mean(effects) > 1
    real = pooled_stability(table(1, within=4.0, between=0.0), "won")
    assert real is not None and real.within.coefficients["stability"].low > 0


def test_latents_that_match_count_once() -> None:
    rows = table(2, within=1.0, between=0.0)
    once = pooled_stability(rows, "won")
    # the same latents again in another seed, with the same outcomes
    again = rows.assign(
        seed=1, sae=rows["group"] + "-s1", latent=(rows["latent"] + 7) % 200
    )
    rows["shared_with"] = [json.dumps({"1": (j + 7) % 200}) for j in rows["latent"]]
    both = pd.concat([rows, again], ignore_index=True)
    matched = pooled_stability(both, "won")
    both["shared_with"] = None
    apart = pooled_stability(both, "won")
    assert once is not None and matched is not None and apart is not None
    errors = [
        fits.within.coefficients["stability"].se_clustered
        for fits in (once, matched, apart)
    ]
    assert errors[1] == pytest.approx(errors[0], rel=0.01)
    assert errors[2] < 0.75 * errors[0]
    assert matched.within.n_latents == once.within.n_latents == 400
    assert apart.within.n_latents == 800
    want = oracle.cluster_robust(
        both["won"],
        both["sae"].factorize()[0] * 1000 + both["latent"],
        {
            "stability": both["stability"],
            "group": (both["group"] == "l2").astype(float),
        },
    )
    assert apart.within.coefficients["stability"].se_clustered == pytest.approx(
        want.loc["stability", "se_clustered"], rel=1e-4
    )


def test_matches_are_followed_from_seed_to_seed() -> None:
    names = ("group", "sae", "seed", "latent", "shared_with")
    known = [
        ("a", "s0", 0, 5, '{"1": 6}'),
        ("a", "s1", 1, 6, '{"0": 5, "2": 7}'),
        ("a", "s2", 2, 7, '{"1": 6}'),
        ("a", "s2", 2, 5, "{}"),
        ("b", "s0", 0, 5, "{}"),
        ("a", "s9", None, 5, None),
    ]
    rows = pd.DataFrame([dict(zip(names, row, strict=True)) for row in known])
    found = matched_latents(rows)
    assert len(set(found[:3])) == 1
    assert len(set(found)) == 4


def test_what_has_no_stability_or_one_group_has_no_such_fit() -> None:
    rows = table(3, within=1.0, between=0.0, n=40)
    assert pooled_stability(rows.assign(stability=None), "won") is None
    scored = rows.assign(interp_score=np.linspace(0, 1, len(rows)))
    found = pooled_stability(scored, "won")
    assert found is not None and found.adjusted is not None
    assert set(found.adjusted.coefficients) == {
        *("intercept", "stability", "score", "group l2")
    }
    # 79 of 80 latents have a stability of their own
    assert found.support.latents == 80 and found.support.varied == 79
    assert found.support.varied_texts + found.support.common_texts == len(rows)
    few = rows.assign(stability=np.where(rows["latent"] < 2, 0.5, 0.0), won=False)
    few.loc[few["latent"] == 1, "won"] = True
    sparse = pooled_stability(few, "won")
    assert sparse is not None
    assert sparse.support == Support(80, 0.0, 4, 12, 6, 228, 0)
    single = pooled_stability(rows.loc[rows["group"] == "none"], "won")
    assert single is not None
    assert single.within.coefficients == single.alone.coefficients
