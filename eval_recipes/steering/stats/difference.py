"""The success of two groups of SAEs compared: over latents, over seeds, and beyond the control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.stats.association import interaction, restricted
from eval_recipes.steering.stats.compare import SteeredGroup, seed_rates
from eval_recipes.steering.stats.figures import (
    arm,
    of_latents,
    over_control,
    trials_of,
    with_verdict,
)
from eval_recipes.steering.stats.group_tests import (
    GroupComparison,
    compare_groups,
    difference_over_seeds,
)
from eval_recipes.steering.stats.logistic import LogisticFit
from eval_recipes.steering.stats.rates import Array, Trials


@dataclass(frozen=True)
class GroupDifference:
    """Two groups at one strength in the eyes of one judge."""

    tests: GroupComparison
    interaction: LogisticFit | None
    """Whether success follows the interp score differently; None without scores."""
    by_seed: Mapping[int, float] = field(default_factory=dict[int, float])
    """Rate of the first group's SAE less that of the second's, for each seed of both."""
    excess: Interval | None = None
    """The same of success less that of random directions: mean, Student's t over seeds. What
    moves a group's texts with and without the latent alike is not in it."""
    excess_by_seed: Mapping[int, float] = field(default_factory=dict[int, float])


def seed_excesses(group: SteeredGroup, judge: str, amount: float) -> dict[int, float]:
    """Return the success of each SAE less that of random directions, by training seed."""
    steered, control = (
        with_verdict(arm(group.texts, judge, name, amount), judge)
        for name in ("steered", "random")
    )
    seeds: list[int] = steered["seed"].dropna().astype(int).tolist()
    found: dict[int, float] = {}
    for seed in dict.fromkeys(seeds):
        mine, theirs = (rows.loc[rows["seed"] == seed] for rows in (steered, control))
        excess = over_control(mine, theirs, judge, seed=0)
        if excess is not None:
            found[seed] = excess.value
    return found


def difference(
    a: SteeredGroup, b: SteeredGroup, judge: str, amount: float, *, seed: int
) -> GroupDifference:
    """Compare the success of group ``a`` with that of group ``b`` at one strength."""
    trials_a, scores_a = _scored(a, judge, amount)
    trials_b, scores_b = _scored(b, judge, amount)
    seeds_a, seeds_b = (seed_rates(group, judge, amount) for group in (a, b))
    over_a, over_b = (seed_excesses(group, judge, amount) for group in (a, b))
    return GroupDifference(
        tests=compare_groups(
            trials_a, trials_b, seed=seed, seeds_a=seeds_a, seeds_b=seeds_b
        ),
        interaction=_interaction(trials_a, scores_a, trials_b, scores_b),
        by_seed=_at_equal_seeds(seeds_a, seeds_b),
        excess=difference_over_seeds(over_a, over_b),
        excess_by_seed=_at_equal_seeds(over_a, over_b),
    )


def _at_equal_seeds(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    return {s: a[s] - b[s] for s in sorted(set(a) & set(b))}


def _interaction(
    trials_a: Trials, scores_a: Array, trials_b: Trials, scores_b: Array
) -> LogisticFit | None:
    known = [np.isfinite(scores) for scores in (scores_a, scores_b)]
    if not all(mask.any() for mask in known):
        return None
    part_a, kept_a = restricted(trials_a, known[0])
    part_b, kept_b = restricted(trials_b, known[1])
    return interaction(part_a, scores_a[kept_a], part_b, scores_b[kept_b])


def _scored(group: SteeredGroup, judge: str, amount: float) -> tuple[Trials, Array]:
    rows = with_verdict(arm(group.texts, judge, "steered", amount), judge)
    trials = trials_of(rows, judge)
    return trials, of_latents(rows, trials, "interp_score")
