"""Statements of the steering study, from intervals and p-values alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from eval_recipes.results.differences import Difference, Values
from eval_recipes.statistics.interval import Interval
from eval_recipes.steering.stats.compare import GroupDifference, GroupRates
from eval_recipes.steering.stats.group_tests import PValue
from eval_recipes.steering.stats.logistic import Coefficient
from eval_recipes.steering.stats.matched import PooledStability
from eval_recipes.studies.framework.verdicts import (
    Claim,
    Verdict,
    judge,
    values_text,
)
from eval_recipes.studies.steering.runs import SteeringStudy
from eval_recipes.tables.table import cell, digits

NO_SEEDS = "the groups have no training seed in common"
UNSTEERED = "unsteered texts"

FEWEST_VARIED = 10
"""Latents of unusual stability below which stability decides nothing."""

_SHARED_TEXT = (
    "With common random numbers a weakly steered text shares its beginning, and more, with its "
    "original; this control shares nothing."
)


@dataclass(frozen=True)
class Compared:
    """
    Both groups at one strength, by one judge.

    Attributes:
        judge: name of the judge.
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


def statements(study: SteeringStudy, one: Compared) -> list[str]:
    """Say what held at one strength, from intervals and p-values alone."""
    return [
        _excess(one.verdict),
        _published(study, one.rates, one.against),
        *controls(study, one.rates),
        _interaction(study, one.against),
        stability_sentence(one.pooled),
    ]


def success_verdict(
    study: SteeringStudy, rates: Sequence[GroupRates], against: GroupDifference
) -> Verdict:
    """
    Judge whether the group's latents succeed more often than the baseline's.

    The success of random directions is subtracted for each SAE: explanations whose scores
    scatter more pass a common threshold more often whatever is done to the text. SAEs are the
    replicates, since an interval over latents does not generalise to other training seeds.
    """
    claim = Claim(
        figure="success beyond that of random directions",
        group=study.group,
        other=study.baseline,
        direction="higher",
        source="adapted",
    )
    beyond = [found.rates.over_random for found in rates]
    if beyond[0] is None or beyond[1] is None:
        return judge(claim, None)
    if against.excess is None:
        value = beyond[1].value - beyond[0].value
        return judge(claim, Interval(value, None, None, 0, NO_SEEDS))
    values = _values(against.excess_by_seed)
    found = Difference(against.excess, values)
    return judge(claim, found.interval, values=values, p=found.p_value(claim.bound))


def _values(by_seed: Mapping[int, float]) -> Values:
    return tuple(((seed,), value) for seed, value in by_seed.items())


def _excess(verdict: Verdict) -> str:
    interval = verdict.difference
    # without an interval the sentence lists them itself
    if not verdict.values or interval is None or interval.low is None:
        return verdict.sentence
    return f"{verdict.sentence} By {values_text(verdict.values)}."


def _published(
    study: SteeringStudy, rates: Sequence[GroupRates], against: GroupDifference
) -> str:
    """Give the difference of success as it was published: no control taken off, no verdict."""
    tests = against.tests
    odds = tests.odds_ratio.coefficients.get("group")
    shown = "none" if odds is None else f"{digits(odds.value)} {_ends(odds)}"
    by_seed = f" ({values_text(_values(against.by_seed))})" if against.by_seed else ""
    text = (
        f"Success alone, as published, {study.group} less {study.baseline} (no verdict: "
        f"unsteered text may succeed more often in one group): {cell(tests.over_seeds)} over "
        f"seeds{by_seed}; over the latents of these SAEs, which says nothing of other seeds, "
        f"{cell(tests.difference)}, permutation {_p(tests.permutation)}, chi-square "
        f"{_p(tests.chi_square)} (takes texts for independent), log odds ratio {shown}."
    )
    passed = [found.passed for found in rates]
    if passed[0] is None or passed[1] is None:
        return text
    return (
        f"{text} Of their own unsteered scores {cell(passed[0])} of {study.baseline} and "
        f"{cell(passed[1])} of {study.group} exceed the common threshold."
    )


def controls(study: SteeringStudy, rates: Sequence[GroupRates]) -> Iterator[str]:
    """Say of the baseline and the group whether success exceeds that of either control."""
    for name, found in zip((study.baseline, study.group), rates, strict=True):
        for figure, control in (
            (found.rates.over_unsteered, UNSTEERED),
            (found.rates.over_random, "random directions"),
        ):
            claim = Claim(
                figure=f"success of {name}",
                group="its latents",
                other=control,
                direction="higher",
            )
            verdict = judge(claim, figure)
            if control == UNSTEERED and verdict.outcome == "opposite":
                # no evidence against the latents: a weakly steered text shares tokens, while
                # this control draws all of them anew
                yield f"{replace(verdict, outcome='undecided').sentence} {_SHARED_TEXT}"
            else:
                yield verdict.sentence


def _interaction(study: SteeringStudy, against: GroupDifference) -> str:
    """Give the difference of slopes; it is over latents, so no verdict over seeds."""
    fit = against.interaction
    found = None if fit is None else fit.interval("score:group")
    reason = "no interp score" if fit is None else fit.reason
    return (
        "Over the latents of these SAEs: slope of success on interp score with "
        f"{study.group} less that with {study.baseline} {cell(found)}"
        + (f" ({reason})." if reason else ".")
    )


def stability_sentence(pooled: PooledStability | None) -> str:
    """
    Say whether more stable latents steer better, within groups.

    The fit without groups is given next to it; it also reflects other group differences.
    Fewer than ``FEWEST_VARIED`` latents that differ decide nothing: the error is robust
    within latents only with several of them.
    """
    if pooled is None:
        return "Not measured here: whether stability predicts success."
    found = pooled.within.interval("stability")
    if found is None:
        return (
            "Not decided here: whether stability predicts success within groups "
            f"({pooled.within.reason}). {_support(pooled)}"
        )
    adjusted = pooled.adjusted.interval("stability") if pooled.adjusted else None
    outcome = (
        "Too few to decide here: whether more stable latents steer better"
        if pooled.support.varied < FEWEST_VARIED
        else "Held here: more stable latents steer better"
        if (found.low or 0) > 0
        else "The opposite held here: more stable latents steer worse"
        if (found.high or 0) < 0
        else "Not decided here: whether more stable latents steer better"
    )
    return (
        f"{outcome} (log odds for stability 1 against 0, within groups: {cell(found)}; with "
        f"interp score in the fit, too: {cell(adjusted)}; without groups: "
        f"{cell(pooled.alone.interval('stability'))}; {found.n} latents, those that match "
        f"across seeds counted once). {_support(pooled)}"
    )


def _support(pooled: PooledStability) -> str:
    """Say how many latents a fit on stability rests on, and how they fared."""
    support = pooled.support
    return (
        f"Of {support.latents} latents {support.varied} have another stability than the most "
        f"common one ({digits(support.common)}); of their texts {support.varied_successes} of "
        f"{support.varied_texts} succeeded, of the others {support.common_successes} of "
        f"{support.common_texts}."
    )


def _ends(found: Coefficient) -> str:
    return f"[{digits(found.low)}, {digits(found.high)}]"


def _p(test: PValue) -> str:
    return (
        f"none ({test.reason})" if test.p_value is None else f"p = {test.p_value:.2g}"
    )
