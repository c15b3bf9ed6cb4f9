"""The paper's grid of ways to steer as one table; all else about it stands in the JSON."""

from __future__ import annotations

from collections.abc import Sequence

from eval_recipes.steering.stats.compare import GroupRates
from eval_recipes.studies.framework.report import markdown_table
from eval_recipes.studies.steering.runs import SteeringRun, SteeringStudy
from eval_recipes.studies.steering.sections import Compared, Section
from eval_recipes.studies.steering.statements import cell
from eval_recipes.studies.steering.table import strength_ratio
from eval_recipes.tables.run_table import digits

_FIGURES = ("strength / norm", "fluency loss")


def grid_text(
    study: SteeringStudy, found: Sequence[tuple[SteeringRun, Section]]
) -> str:
    """Return the runs of the grid as Markdown: what was done, one table, one count."""
    names = (study.baseline, study.group)
    judges = list(
        dict.fromkeys(one.judge for _, section in found for one in section.compared)
    )
    heads = [
        *("strength", "decoding", "positions"),
        *(f"{figure}, {name}" for figure in _FIGURES for name in names),
        *(f"{judge}, {name}" for judge in judges for name in names),
    ]
    rows = [
        _row(run, section, amount, judges)
        for run, section in found
        for amount in dict.fromkeys(one.amount for one in section.compared)
    ]
    return "\n\n".join(
        [
            f"{_about(found)} Of each judge: success, and after the semicolon success less that of "
            "random directions [95 % interval over latents]. Greedy texts, too, are judged by the "
            "threshold learned from sampled pairs, and differ less from each other than those. No "
            "statement on groups is made; every other figure of these runs stands in "
            "`results.json`.",
            markdown_table(heads, rows),
            "In how many of these ways to steer success exceeds that of random directions, with the "
            "whole interval and without correction (of 40 without any effect one would):",
            "\n".join(f"- {line}" for line in _counts(names, found, judges)),
        ]
    )


def _about(found: Sequence[tuple[SteeringRun, Section]]) -> str:
    """Say how many SAEs and latents the grid has."""
    first = found[0][1]
    asked = first.groups[0].records[0]["eval_config"]["n_latents"]
    left = [
        f"{group.name} {len(group.records)} "
        + ("SAE" if len(group.records) == 1 else "SAEs")
        + f" and {_latents(rates)} latents"
        for group, rates in zip(first.groups, first.compared[0].rates, strict=True)
    ]
    return f"{asked} candidates of each SAE; with an explanation and a strength: {', '.join(left)}."


def _latents(found: GroupRates) -> int:
    return 0 if found.rates.success is None else found.rates.success.n


def _row(
    run: SteeringRun, section: Section, amount: float, judges: Sequence[str]
) -> list[str]:
    by_judge = {one.judge: one for one in section.compared if one.amount == amount}
    first = next(iter(by_judge.values()))
    ratios = [strength_ratio(group, first.judge, amount) for group in section.groups]
    return [
        f"{section.mode} {amount:g}",
        "greedy" if run.options["greedy"] else "sampled",
        run.options["positions"],
        *("-" if ratio is None else digits(ratio) for ratio in ratios),
        *(cell(rates.loss) for rates in first.rates),
        *(text for judge in judges for text in _cells(by_judge.get(judge))),
    ]


def _cells(one: Compared | None) -> tuple[str, str]:
    if one is None:
        return "-", "-"
    baseline, group = one.rates
    return _cell(baseline), _cell(group)


def _cell(found: GroupRates) -> str:
    if found.rates.success is None:
        return "-"
    return f"{digits(found.rates.success.value)}; {cell(found.rates.over_random)}"


def _counts(
    names: Sequence[str],
    found: Sequence[tuple[SteeringRun, Section]],
    judges: Sequence[str],
) -> list[str]:
    def said(judge: str, number: int) -> str:
        beyond = [
            one.rates[number].rates.over_random
            for _, section in found
            for one in section.compared
            if one.judge == judge
        ]
        lows = [one.low for one in beyond if one is not None and one.low is not None]
        return f"{sum(low > 0 for low in lows)} of {len(lows)} with {names[number]}"

    return [f"{judge}: {said(judge, 0)}, {said(judge, 1)}" for judge in judges]
