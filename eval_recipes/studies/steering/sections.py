"""One run of the steering study as figures: groups, controls, tests, verdicts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval_recipes.steering.judges.protocol import Threshold
from eval_recipes.steering.stats.compare import (
    GroupDifference,
    GroupRates,
    SaeKey,
    SteeredGroup,
    by_group,
    common_judges,
    config_value,
    difference,
    group_rates,
    read_groups,
    stability_over_groups,
    with_common_thresholds,
)
from eval_recipes.steering.stats.matched import (
    Matches,
    PooledStability,
    count_matches,
)
from eval_recipes.studies.framework.comparison import holm
from eval_recipes.studies.framework.verdicts import Verdict
from eval_recipes.studies.steering.runs import SteeringStudy
from eval_recipes.studies.steering.statements import success_verdict
from saereg_plugin.errors import InputError


@dataclass(frozen=True)
class Compared:
    """
    Both groups at one strength in the eyes of one judge.

    Attributes:
        judge: whose.
        amount: strength in the units of the mode.
        rates: of the baseline and of the group.
        against: the group against the baseline.
        pooled: whether stability predicts success; None where it is not known.
        verdict: on success beyond that of random directions, over seeds.
    """

    judge: str
    amount: float
    rates: tuple[GroupRates, GroupRates]
    against: GroupDifference
    pooled: PooledStability | None
    verdict: Verdict


@dataclass(frozen=True)
class Section:
    """
    One run.

    Attributes:
        name: of the run.
        mode: of the strength.
        max_ratio: steered over unsteered perplexity up to which a text is fluent.
        groups: the baseline and the group, judged by the common thresholds.
        thresholds: common to all SAEs, of each judge that learned one.
        compared: one a judge and strength.
    """

    name: str
    mode: str
    max_ratio: float
    groups: tuple[SteeredGroup, SteeredGroup]
    thresholds: dict[str, Threshold]
    compared: tuple[Compared, ...]

    def without_explanation(self, group: SteeredGroup) -> int:
        """Return how many candidates of a group were left out for want of an explanation."""
        return sum(
            record["eval_result_metrics"]["latents"]["without_explanation"]
            for record in group.records
        )

    def matches(self, group: SteeredGroup) -> Matches | None:
        """Return how many steered latents of a group match one of another of its SAEs."""
        steered = group.texts.loc[group.texts["arm"] == "steered"]
        return count_matches(steered.assign(group=group.name))


def section_of(
    study: SteeringStudy,
    name: str,
    results: Path,
    keep: Collection[SaeKey] | None = None,
) -> Section:
    """
    Compare the groups of one run.

    Args:
        study: which groups.
        name: of the run.
        results: its folder.
        keep: its SAEs, since the folder may hold others; None is all.

    Raises:
        InputError: if a group is missing, or results do not fit together.
    """
    found = by_group(read_groups(results, keep))
    missing = [group for group in (study.baseline, study.group) if group not in found]
    if missing:
        raise InputError(
            f"Results {str(results)!r} hold nothing of group {missing[0]!r}; expected both groups. "
            "All of its SAEs failed: see Trouble, then run the same command again."
        )
    (baseline, group), thresholds = with_common_thresholds(
        [found[study.baseline], found[study.group]]
    )
    groups = (baseline, group)
    amounts: list[float] = config_value(groups, "amounts")
    max_ratio: float = config_value(groups, "max_perplexity_ratio")
    seed: int = config_value(groups, "random_seed")

    def compared(judge: str, amount: float) -> Compared:
        def rates(of: SteeredGroup) -> GroupRates:
            return group_rates(of, judge, amount, max_ratio=max_ratio, seed=seed)

        both = (rates(baseline), rates(group))
        against = difference(group, baseline, judge, amount, seed=seed)
        return Compared(
            judge,
            amount,
            both,
            against,
            stability_over_groups(groups, judge, amount),
            success_verdict(study, both, against),
        )

    return Section(
        name,
        config_value(groups, "strength_mode"),
        max_ratio,
        groups,
        thresholds,
        tuple(
            compared(judge, amount)
            for judge in common_judges(groups)
            for amount in amounts
        ),
    )


def corrected(sections: Sequence[Section]) -> list[Section]:
    """Return sections whose verdicts' p-values are corrected (Holm) over all of them."""
    p_values = [
        one.verdict.p
        for section in sections
        for one in section.compared
        if one.verdict.p is not None
    ]
    left = iter(holm(p_values))

    def settled(one: Compared) -> Compared:
        if one.verdict.p is None:
            return one
        return replace(one, verdict=replace(one.verdict, p_corrected=next(left)))

    return [
        replace(section, compared=tuple(map(settled, section.compared)))
        for section in sections
    ]
