"""Section of the steering report on one run: figures, Markdown, JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval_recipes.steering.build_output import readable
from eval_recipes.steering.judges.protocol import Threshold
from eval_recipes.steering.stats.compare import (
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
from eval_recipes.steering.stats.figures import figure_of
from eval_recipes.steering.stats.matched import (
    Matches,
    count_matches,
)
from eval_recipes.studies.framework.verdicts import holm_corrected
from eval_recipes.studies.steering.runs import SteeringStudy
from eval_recipes.studies.steering.statements import (
    Compared,
    statements,
    success_verdict,
)
from eval_recipes.tables.table import cell, digits, markdown_table
from saereg_plugin.errors import InputError


@dataclass(frozen=True)
class Section:
    """
    Figures of one run.

    Attributes:
        name: of the run.
        mode: of the strength.
        max_ratio: steered over unsteered perplexity up to which a text is fluent.
        groups: the baseline and the group, judged by the common thresholds.
        thresholds: common to all SAEs, of each judge that learned one.
        compared: one entry per judge and strength.
    """

    name: str
    mode: str
    max_ratio: float
    groups: tuple[SteeredGroup, SteeredGroup]
    thresholds: dict[str, Threshold]
    compared: tuple[Compared, ...]

    def without_explanation(self, group: SteeredGroup) -> int:
        """Return how many candidates of a group had no explanation and were left out."""
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

    ``keep`` names its SAEs, since the folder may hold others; None is all.

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
    """Correct the p-values of the sections' verdicts (Holm) over all of them."""
    verdicts = [one.verdict for section in sections for one in section.compared]
    settled = iter(holm_corrected(verdicts))
    return [
        replace(
            section,
            compared=tuple(
                replace(one, verdict=next(settled)) for one in section.compared
            ),
        )
        for section in sections
    ]


_HEADS = (
    *("judge, strength", "strength / norm", "group", "latents", "without explanation"),
    *("distinct pairs", "without verdict", "success", "fluent success"),
    *("unsteered", "random direction", "fluency loss", "over seeds"),
    *("Spearman", "point-biserial", "slope (clustered SE)"),
)


def section_text(study: SteeringStudy, section: Section) -> str:
    """Return a run as Markdown: what was done, its table, what held."""
    rows = [
        _row(section, one, group, figures)
        for one in section.compared
        for group, figures in zip(section.groups, one.rates, strict=True)
    ]
    said = [
        f"- {_where(section, one)}: {line}"
        for one in section.compared
        for line in statements(study, one)
    ]
    parts = [
        f"## {section.name}",
        f"{_about(section)} Success over all SAEs of a group [95 % interval, latents drawn]; "
        f"fluent: perplexity at most {section.max_ratio:g} x the unsteered one.",
        *_thresholds(section),
        *_matches(section),
        markdown_table(_HEADS, rows),
        "What held:",
        "\n".join(said),
    ]
    return "\n\n".join(parts)


def section_json(study: SteeringStudy, section: Section) -> dict[str, Any]:
    """Return a run as plain JSON."""
    return {
        "run": section.name,
        "mode": section.mode,
        "thresholds": {
            judge: asdict(found) for judge, found in section.thresholds.items()
        },
        "without_explanation": {
            group.name: section.without_explanation(group) for group in section.groups
        },
        "matched_latents": {
            group.name: readable(section.matches(group)) for group in section.groups
        },
        "figures": [
            {
                "judge": one.judge,
                "amount": one.amount,
                "groups": {
                    group.name: readable(figures)
                    for group, figures in zip(section.groups, one.rates, strict=True)
                },
                "difference": readable(one.against),
                "stability": readable(one.pooled),
                "verdict": one.verdict.to_dict(),
                "statements": statements(study, one),
            }
            for one in section.compared
        ],
    }


def _where(section: Section, one: Compared) -> str:
    return f"{one.judge}, {section.mode} {one.amount:g}"


def _about(section: Section) -> str:
    """Say what was steered and how much of it."""
    record = section.groups[0].records[0]
    extra, settings = record["eval_result_unstructured"], record["eval_config"]
    return (
        f"{extra['model']} in {extra['dtype']}, {settings['n_latents']} candidates an SAE, "
        f"explained by {extra['explainer']}."
    )


def _thresholds(section: Section) -> list[str]:
    if not section.thresholds:
        return []
    lines = [f"- {name}: {_said(found)}" for name, found in section.thresholds.items()]
    return [
        "Thresholds, each common to all SAEs, learned from unsteered pairs of all of them:",
        "\n".join(lines),
    ]


def _said(found: Threshold) -> str:
    ends = (
        ""
        if found.low is None or found.high is None
        else f" [{digits(found.low)}, {digits(found.high)}]"
    )
    asked = "" if found.rate is None else f" (at most {digits(found.rate)} asked)"
    passed = "-" if found.achieved is None else digits(found.achieved)
    return (
        f"success is a score above {digits(found.value)}, which {passed}{ends} of "
        f"{found.n} unsteered scores of {found.n_clusters} latents exceed{asked}."
    )


def _matches(section: Section) -> list[str]:
    """Say how many latents count several times; nothing where it is not known."""
    said = [
        f"{found.matched} of {found.latents} of {group.name}"
        for group in section.groups
        if (found := section.matches(group)) is not None
    ]
    if not said:
        return []
    return [
        f"Latents that match one of another seed that was steered with, too: {', '.join(said)}. "
        "Rates and tests take them for different latents."
    ]


def _row(
    section: Section, one: Compared, group: SteeredGroup, found: GroupRates
) -> list[str]:
    rates, interp = found.rates, found.links.interp
    slope = interp.slope.coefficients.get("score") if interp else None
    ratio = strength_ratio(group, one.judge, one.amount)
    return [
        _where(section, one),
        "-" if ratio is None else digits(ratio),
        group.name,
        str(rates.success.n if rates.success else 0),
        str(section.without_explanation(group)),
        str(rates.counts["steered"].distinct),
        str(rates.counts["steered"].without_verdict),
        cell(rates.success),
        cell(rates.fluent),
        cell(rates.unsteered),
        cell(rates.random),
        cell(found.loss),
        cell(found.over_seeds),
        cell(figure_of(interp.spearman if interp else None)),
        cell(figure_of(interp.point_biserial if interp else None)),
        "-"
        if slope is None
        else f"{digits(slope.value)} ({digits(slope.se_clustered)})",
    ]


def strength_ratio(group: SteeredGroup, judge_name: str, amount: float) -> float | None:
    """Return strength over median residual norm, of the group's first SAE."""
    for point in group.records[0]["eval_result_details"]:
        if (point["judge"], point["amount"]) == (judge_name, amount):
            return point["ratio"]
    return None
