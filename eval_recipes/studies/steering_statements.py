"""What held of the steering study, said from intervals and p-values alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eval_recipes.report import digits
from eval_recipes.statistics import Interval
from eval_recipes.steering.compare import GroupDifference, GroupRates
from eval_recipes.steering.group_tests import PValue
from eval_recipes.steering.logistic import Coefficient
from eval_recipes.steering.matched import PooledStability
from eval_recipes.studies.comparison import Difference, values_text
from eval_recipes.studies.steering_runs import SteeringStudy
from eval_recipes.studies.verdicts import Claim, Verdict, judge

NO_SEEDS = "the groups have no training seed in common"


def statements(
    study: SteeringStudy,
    rates: Sequence[GroupRates],
    against: GroupDifference,
    pooled: PooledStability | None,
    verdict: Verdict,
) -> list[str]:
    """
    Say what held, computed from intervals and p-values alone.

    Args:
        study: which groups.
        rates: of the baseline and of the group.
        against: the group against the baseline.
        pooled: whether stability predicts success.
        verdict: ``success_verdict``, its p-value corrected.
    """
    return [
        _success(against, verdict),
        *_controls(study, rates),
        _interaction(study, against),
        stability_sentence(pooled),
    ]


def success_verdict(study: SteeringStudy, against: GroupDifference) -> Verdict:
    """
    Judge whether the group succeeds more often than the baseline, SAEs as replicates.

    An interval over latents says what other latents of these SAEs would give, and nothing of
    other training seeds: it decides nothing here.
    """
    claim = Claim(
        figure="success",
        group=study.group,
        other=study.baseline,
        direction="higher",
        source="paper",
    )
    tests = against.tests
    if tests.difference is None:
        return judge(claim, None)
    if tests.over_seeds is None:
        lonely = Interval(tests.difference.value, None, None, 0, NO_SEEDS)
        return judge(claim, lonely)
    values = tuple(((seed,), value) for seed, value in against.by_seed.items())
    found = Difference(tests.over_seeds, values)
    return judge(claim, found.interval, values=values, p=found.p_value(claim.bound))


def _success(against: GroupDifference, verdict: Verdict) -> str:
    tests = against.tests
    odds = tests.odds_ratio.coefficients.get("group")
    shown = "none" if odds is None else f"{digits(odds.value)} {_ends(odds)}"
    interval = verdict.difference
    # without an interval the sentence lists them itself
    seeds = (
        f" By {values_text(verdict.values)}."
        if verdict.values and interval is not None and interval.low is not None
        else ""
    )
    return (
        f"{verdict.sentence}{seeds} Over the latents of these SAEs, which says nothing of other "
        f"seeds: difference {cell(tests.difference)}, permutation {_p(tests.permutation)}, "
        f"chi-square {_p(tests.chi_square)} (takes texts for independent), log odds ratio {shown}."
    )


def _controls(study: SteeringStudy, rates: Sequence[GroupRates]) -> Iterator[str]:
    for name, found in zip((study.baseline, study.group), rates, strict=True):
        for figure, control in (
            (found.rates.over_unsteered, "unsteered texts"),
            (found.rates.over_random, "random directions"),
        ):
            claim = Claim(
                figure=f"success of {name}",
                group="its latents",
                other=control,
                direction="higher",
            )
            yield judge(claim, figure).sentence


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

    The fit without groups stands beside it: it also answers to whatever else sets them apart.
    """
    if pooled is None:
        return "Not measured here: whether stability predicts success."
    found = pooled.within.interval("stability")
    if found is None:
        return (
            "Not decided here: whether stability predicts success within groups "
            f"({pooled.within.reason})."
        )
    adjusted = pooled.adjusted.interval("stability") if pooled.adjusted else None
    outcome = (
        "Held here: more stable latents steer better"
        if (found.low or 0) > 0
        else "The opposite held here: more stable latents steer worse"
        if (found.high or 0) < 0
        else "Not decided here: whether more stable latents steer better"
    )
    return (
        f"{outcome} (log odds for stability 1 against 0, within groups: {cell(found)}; with "
        f"interp score in the fit, too: {cell(adjusted)}; without groups: "
        f"{cell(pooled.alone.interval('stability'))}; {found.n} latents, those that match "
        "across seeds counted once)."
    )


def cell(figure: Interval | None) -> str:
    """Return a figure and its interval in few characters."""
    if figure is None:
        return "-"
    if figure.low is None or figure.high is None:
        return digits(figure.value)
    return f"{digits(figure.value)} [{digits(figure.low)}, {digits(figure.high)}]"


def _ends(found: Coefficient) -> str:
    return f"[{digits(found.low)}, {digits(found.high)}]"


def _p(test: PValue) -> str:
    return (
        f"none ({test.reason})" if test.p_value is None else f"p = {test.p_value:.2g}"
    )
