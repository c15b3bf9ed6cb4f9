"""Report of the steering study: Markdown, JSON and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval_recipes.steering.plots import draw
from eval_recipes.steering.stats.compare import GroupRates, steering_results
from eval_recipes.studies.framework.report import run_facts
from eval_recipes.studies.steering.runs import (
    RATIO,
    SteeringOutcome,
    SteeringRun,
    SteeringStudy,
)
from eval_recipes.studies.steering.sections import (
    Section,
    corrected,
    section_json,
    section_of,
    section_text,
    strength_ratio,
)
from eval_recipes.studies.steering.statements import Compared
from eval_recipes.tables.plots import save_png
from eval_recipes.tables.table import NONE, cell, digits, markdown_table
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_json, write_text

TABLE = "table.md"
RESULTS = "results.json"
PICTURE = "steering.png"
FILES = (TABLE, RESULTS, PICTURE)
"""Files of ``write_steering_report``."""

PUBLISHED_ROWS = (
    ("none", "success", "6.3 % (57 of 900)"),
    ("l2", "success", "13.0 % (72 of 555)"),
    ("l2 against none", "chi-square with Yates' correction", "p = 2.3e-5"),
    ("none", "point-biserial of interp score and success", ".06"),
    ("l2", "point-biserial of interp score and success", ".14"),
)
"""arXiv 2603.04198: pythia-70m-deduped, alpha 5, judged by gpt-5.1."""

_NOT_COMPARABLE = (
    "The published figures are of another model, other SAEs, explanations by a language model "
    "and a chat judge: only directions can be compared, never levels."
)


def write_steering_report(outcome: SteeringOutcome, out: Path) -> Path:
    """
    Write ``table.md`` and ``results.json`` into ``out``; return the table's path.

    A run without a group, or with results that do not fit together, has a section that says so.
    The grid's runs share one table. ``steering.png`` shows success against fluency of the run
    at several strengths, if there is one.
    """
    found = [(run, _section(outcome, run.name, out)) for run in outcome.runs]
    # the grid makes no statements
    whole = [one for run, one in found if isinstance(one, Section) and not run.grid]
    settled = {section.name: section for section in corrected(whole)}
    parts: list[str] = []
    data: list[dict[str, Any]] = []
    grid: list[tuple[SteeringRun, Section]] = []
    trouble_of_grid: list[str] = []
    for run, section in found:
        name = run.name
        said = trouble_of_grid if run.grid else parts
        failed = [one.sae_id for one in outcome.by_run.get(name, [])]
        if isinstance(section, InputError):
            head = f"{name}: " if run.grid else f"## {name}\n\n"
            said.append(f"{head}Not complete: {section}")
            data.append({"run": name, "failed": failed, "not_complete": str(section)})
            continue
        section = settled.get(name, section)
        data.append({**section_json(outcome.study, section), "failed": failed})
        if run.grid:
            grid.append((run, section))
        else:
            parts.append(section_text(outcome.study, section))
        if failed:
            said.append(
                f"{name} without {', '.join(failed)}, which failed (see Trouble)."
            )
    if RATIO in settled:
        results = steering_results(out / "results" / RATIO, outcome.saes.get(RATIO))
        save_png(draw([record for _, record in results]), out / PICTURE)
        parts.append(
            f"Success against fluency of {RATIO}, each SAE by its own threshold: `{PICTURE}`."
        )
    if grid or trouble_of_grid:
        parts.append("## grid")
    if grid:
        parts.append(grid_text(outcome.study, grid))
    facts = run_facts()
    write_json(
        out / RESULTS,
        {
            **facts,
            "published": [list(row) for row in PUBLISHED_ROWS],
            "runs": data,
            "stopped": outcome.stopped,
            "failures": [vars(failure) for failure in outcome.failures],
        },
    )
    head = [
        "# Study steering",
        f"{facts['date']}, `{facts['command']}`.",
        "Published (arXiv 2603.04198):",
        markdown_table(["group", "figure", "published"], PUBLISHED_ROWS),
        _NOT_COMPARABLE,
        *_how_to_read(list(settled.values())),
    ]
    pages = [*head, *parts, *trouble_of_grid, *_troubles(outcome)]
    write_text(out / TABLE, "\n\n".join(pages) + "\n")
    return out / TABLE


def _section(outcome: SteeringOutcome, name: str, out: Path) -> Section | InputError:
    """Return one run's figures, or the error that prevents them."""
    try:
        return section_of(
            outcome.study, name, out / "results" / name, outcome.saes.get(name)
        )
    except InputError as error:
        return error


def _how_to_read(sections: Sequence[Section]) -> list[str]:
    """Return how verdicts are made; nothing without verdicts."""
    if not sections:
        return []
    tests = sum(
        one.verdict.p is not None for section in sections for one in section.compared
    )
    return [
        "Whether the groups differ is judged over training seeds, by success less that of random "
        "directions on the same prompts: a statement held if the whole 95 % interval of the "
        "difference, Student's t over seeds, lies on its side. Its p-values are corrected by Holm's "
        f"method for the {tests} such statements that have an interval. Success alone, as "
        "published, stands beside it without a verdict. What is said of latents (controls, "
        "stability) is about the latents of these SAEs, and not corrected."
    ]


def _troubles(outcome: SteeringOutcome) -> list[str]:
    lines = [f"- stopped in training: {line}" for line in outcome.stopped]
    lines += [f"- {one.eval} of {one.sae_id}: {one.cause}" for one in outcome.failures]
    return ["Trouble:\n\n" + "\n".join(lines)] if lines else []


def grid_text(
    study: SteeringStudy, found: Sequence[tuple[SteeringRun, Section]]
) -> str:
    """Return the runs of the grid as Markdown: what was done, one table, one count."""
    names = (study.baseline, study.group)
    judges = list(
        dict.fromkeys(one.judge for _, section in found for one in section.compared)
    )
    figures = ("strength / norm", "fluency loss", *judges)
    heads = [f"{figure}, {name}" for figure in figures for name in names]
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
            markdown_table(["strength", "decoding", "positions", *heads], rows),
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
        + f" and {_n_latents(rates)} latents"
        for group, rates in zip(first.groups, first.compared[0].rates, strict=True)
    ]
    return f"{asked} candidates of each SAE; with an explanation and a strength: {', '.join(left)}."


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
        *(NONE if ratio is None else digits(ratio) for ratio in ratios),
        *(cell(rates.loss) for rates in first.rates),
        *(text for judge in judges for text in _cells(by_judge.get(judge))),
    ]


def _cells(one: Compared | None) -> list[str]:
    if one is None:
        return [NONE, NONE]
    return [
        NONE
        if found.rates.success is None
        else f"{digits(found.rates.success.value)}; {cell(found.rates.over_random)}"
        for found in one.rates
    ]


def _n_latents(found: GroupRates) -> int:
    return 0 if found.rates.success is None else found.rates.success.n


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
