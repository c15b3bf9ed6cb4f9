"""Report of a study: figures and verdicts as Markdown, JSON, CSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.cross_seed.groups import SEEDS_DEPEND
from eval_recipes.cross_seed.metrics import OVERLAPS, PAIR_METRICS
from eval_recipes.results.differences import (
    Difference,
    GroupDifference,
    group_minus_other,
)
from eval_recipes.results.headlines import Metric
from eval_recipes.statistics.seeds import Interval, seed_interval
from eval_recipes.studies.framework.definition import Column, StudyRun
from eval_recipes.studies.framework.verdicts import (
    Beside,
    Claim,
    Verdict,
    holm_corrected,
    judge,
    summary,
)
from eval_recipes.tables.run_table import group_figure
from eval_recipes.tables.table import NONE, cell, digits, markdown_table
from saereg_plugin import machine
from saereg_plugin.files import atomic_path, write_json, write_text

TABLE = "table.md"
RESULTS = "results.json"
CSV = "results.csv"
FILES = (TABLE, RESULTS, CSV)
"""Files of ``write_report``."""


def verdicts_of(run: StudyRun) -> list[Verdict]:
    """Judge the study's claims by its table."""
    return judge_all(
        run.table_frame,
        run.study.claims(run.scale),
        run.study.columns,
        run.differences,
    )


def write_report(run: StudyRun, out: Path) -> Path:
    """Write table, JSON and CSV of a study into ``out``; return the table's path."""
    verdicts = verdicts_of(run)
    facts = {**run_facts(), "training_seconds": round(run.training_seconds, 1)}
    write_json(out / RESULTS, to_json(run, verdicts, facts))
    with atomic_path(out / CSV) as temporary:
        run.frame.to_csv(temporary, index=False)
    write_text(out / TABLE, to_markdown(run, verdicts, facts))
    return out / TABLE


def to_json(
    run: StudyRun, verdicts: Sequence[Verdict], facts: dict[str, Any]
) -> dict[str, Any]:
    """Return everything as plain JSON."""
    frame = run.table_frame
    groups = [
        {
            "group": group,
            "figures": {
                column.title: _figure_json(
                    figure_of(frame, group, column), values_of(frame, group, column)
                )
                for column in run.study.columns
            },
        }
        for group in groups_of(frame)
    ]
    return {
        "study": run.study.name,
        "paper": run.study.paper,
        "scale": run.scale,
        "about": run.study.summary,
        "settings": run.plan.settings,
        **facts,
        "columns": [vars(column) for column in run.study.columns],
        "groups": groups,
        "passages": [passage.to_json() for passage in run.passages],
        "published": [vars(number) for number in run.study.published(run.scale)],
        "choices": [choice.to_dict() for choice in run.choices],
        "comparisons": [found.to_dict() for found in run.comparisons],
        "verdicts": [verdict.to_dict() for verdict in verdicts],
        "summary": summary(verdicts),
        "pairs_across_documents": run.pairs_across_documents,
        "stopped": run.stopped,
        "failures": [vars(failure) for failure in run.failures],
        "notes": list(run.study.notes) if run.scale == "small" else [],
    }


def to_markdown(
    run: StudyRun, verdicts: Sequence[Verdict], facts: dict[str, Any]
) -> str:
    """Return the study's page: settings, table, published numbers, what held."""
    study = run.study
    parts = [
        f"# Study {study.name}, scale {run.scale}",
        f"{study.summary} Paper: {study.paper}. {run.plan.settings}",
        _provenance(facts),
        _table(run),
        *(passage.markdown() for passage in run.passages),
        *_crossing(run),
        *([_choices(run)] if run.choices else []),
        _published(run),
        *_comparisons(run),
        _verdicts(verdicts),
    ]
    if run.scale == "small" and study.notes:
        parts.append("What differs from the paper: " + " ".join(study.notes))
    parts += _troubles(run)
    return "\n\n".join(parts) + "\n"


def run_facts() -> dict[str, Any]:
    """Return when, how and where a report was made."""
    return {
        "date": machine.now(),
        "command": machine.command(),
        "versions": machine.versions(),
        "hardware": machine.hardware(),
    }


def _provenance(facts: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {number}" for name, number in facts["versions"].items()
    )
    return f"{facts['date']}, `{facts['command']}`; {versions}."


def shown_columns(run: StudyRun) -> list[Column]:
    """Return the columns that have a value in any row."""
    frame = run.table_frame
    present = set(zip(frame["eval"], frame["metric"]))
    return [column for column in run.study.columns if column.key in present]


def _table(run: StudyRun) -> str:
    frame, columns = run.table_frame, shown_columns(run)
    rows: list[list[str]] = []
    for group in groups_of(frame):
        seeds = frame.loc[frame["group"] == group, "seed"].nunique()
        cells = [cell(figure_of(frame, group, column)) for column in columns]
        rows.append([group, str(seeds), *cells])
    heads = ["group", "seeds", *(column.title for column in columns)]
    text = "Mean over seeds [95 % interval over seeds, Student's t; for figures of pairs see the docs]:"
    return f"{text}\n\n{markdown_table(heads, rows)}"


def _crossing(run: StudyRun) -> list[str]:
    """Say how many pairs of neighbouring training tokens span two documents."""
    lines = [
        f"stage {stage}: {counts['crossing']} of {counts['pairs']}"
        + (f" ({counts['crossing'] / counts['pairs']:.2%})" if counts["pairs"] else "")
        for stage, counts in run.pairs_across_documents.items()
    ]
    if not lines:
        return []
    return [f"Pairs of neighbouring tokens across documents, {'; '.join(lines)}."]


def _published(run: StudyRun) -> str:
    numbers = run.study.published(run.scale)
    if not numbers:
        return "Published numbers: none that can stand beside this table."
    frame = run.table_frame
    by_title = {column.title: column for column in run.study.columns}
    rows: list[list[str]] = []
    for number in numbers:
        column = by_title.get(number.column)
        here = None if column is None else figure_of(frame, number.group, column)
        shown = [number.group, number.column, digits(number.value), cell(here)]
        rows.append([*shown, number.note])
    heads = ["group", "figure", "published", "here", "note"]
    return "Published numbers:\n\n" + markdown_table(heads, rows)


def _choices(run: StudyRun) -> str:
    return "Chosen coefficients:\n\n" + "\n".join(
        f"- {choice.text()}" for choice in run.choices
    )


def _comparisons(run: StudyRun) -> list[str]:
    if not run.comparisons:
        return []
    rows = [
        [
            found.kind,
            f"{found.group} - {found.other}",
            found.metric,
            NONE
            if found.difference is None
            else cell(Interval(found.difference, found.low, found.high, found.n)),
            str(found.n),
            found.reason or "",
        ]
        for found in run.comparisons
    ]
    heads = ["comparison", "groups", "figure", "difference", "n", "why no interval"]
    return ["Further comparisons:\n\n" + markdown_table(heads, rows)]


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    lines = [f"- {verdict.sentence}" for verdict in verdicts]
    tests = sum(verdict.p is not None for verdict in verdicts)
    said = (
        "A statement held if the whole 95 % interval of the difference lies on its side. p-values "
        "(two-sided, Student's t over seeds) are corrected by Holm's method for the "
        f"{tests} statements that have an interval."
    )
    return "\n".join([f"What held. {summary(verdicts)} {said}", "", *lines])


def _troubles(run: StudyRun) -> list[str]:
    found = [f"- stopped: {line}" for line in run.stopped]
    found += [
        f"- no result: {failure.eval} of {failure.sae_id}: {failure.cause}"
        for failure in run.failures
    ]
    return ["Trouble:\n\n" + "\n".join(found)] if found else []


def _figure_json(
    figure: Interval | None, values: dict[int, float]
) -> dict[str, Any] | None:
    if figure is None:
        return None
    by_seed = [{"seed": seed, "value": value} for seed, value in sorted(values.items())]
    return {**figure._asdict(), "values": by_seed}


CROSS_SEED = "cross_seed"


def groups_of(frame: pd.DataFrame) -> list[str]:
    """Return the groups in the order in which they were trained."""
    return list(dict.fromkeys(str(name) for name in frame["group"].dropna()))


def values_of(frame: pd.DataFrame, group: str, column: Column) -> dict[int, float]:
    """Return a figure of one group by seed, where it has a value."""
    rows = frame.loc[
        (frame["group"] == group)
        & (frame["eval"] == column.eval)
        & (frame["metric"] == column.metric)
        & frame["value"].notna()
    ]
    return {int(seed): float(value) for seed, value in zip(rows["seed"], rows["value"])}


def figure_of(frame: pd.DataFrame, group: str, column: Column) -> Interval | None:
    """
    Return a group's mean over seeds with Student's t interval.

    Figures of pairs of seeds come from the cross-seed evaluation itself, which accounts
    for pairs that share a seed.
    """
    values = values_of(frame, group, column)
    if not values:
        return None
    if column.eval != CROSS_SEED:
        return seed_interval(values)
    rows: Any = frame.loc[frame["group"] == group]
    found = group_figure(rows, Metric(*column.key, column.title))
    if found is None:
        return None
    reason = None if found.low is not None else _why_none(column, values)
    return found._replace(n=len(values), reason=reason)


def _why_none(column: Column, values: dict[int, float]) -> str:
    """Return why the cross-seed evaluation gives a group's figure no interval."""
    if column.metric.rsplit("/", 1)[-1] in (*PAIR_METRICS, *OVERLAPS):
        return "few seeds: pairs have no interval"
    # of single SAEs: none if there is one seed, or they are all equal, or share their pairs
    return seed_interval(values).reason or SEEDS_DEPEND


def difference_of(
    frame: pd.DataFrame,
    claim: Claim,
    column: Column,
    differences: Iterable[GroupDifference],
) -> Difference | None:
    """
    Return ``group - other`` of a claim, paired by the seeds that both have.

    None if either lacks the figure or they have no seed in common.
    """
    if column.eval == CROSS_SEED:
        return _cross_seed_difference(claim, column, differences)
    return group_minus_other(
        values_of(frame, claim.group, column), values_of(frame, claim.other, column)
    )


def _cross_seed_difference(
    claim: Claim, column: Column, differences: Iterable[GroupDifference]
) -> Difference | None:
    """
    Return the difference as the evaluation gives it, without an interval over latents.

    An interval over latents does not generalise to other seeds, so it decides nothing here.
    """
    name = column.metric.rsplit("/", 1)[-1]
    pair = {claim.group, claim.other}
    for item in differences:
        if item.metric != name or {item.group, item.other} != pair:
            continue
        found = item if item.group == claim.group else item.reversed()
        if found.decidable:
            low, high, reason = found.ci_low, found.ci_high, None
        else:
            low = high = None
            reason = found.reason or "there is none over seeds or pairs of seeds"
        n = len(found.values)
        interval = Interval(found.difference, low, high, n, reason)
        return Difference(interval, found.values)
    return None


def judge_all(
    frame: pd.DataFrame,
    claims: Sequence[Claim],
    columns: Sequence[Column],
    differences: Sequence[GroupDifference] = (),
) -> list[Verdict]:
    """
    Judge every claim by the table, p-values corrected (Holm) over those that have one.

    Raises:
        KeyError: if a claim names a figure that is no column.
    """
    by_title = {column.title: column for column in columns}
    verdicts: list[Verdict] = []
    for claim in claims:
        found = difference_of(frame, claim, by_title[claim.figure], differences)
        if found is None:
            verdicts.append(judge(claim, None))
            continue
        of_other = figure_of(frame, claim.other, by_title[claim.figure])
        if of_other is not None:
            claim = claim.against(of_other.value)
        beside = None
        if claim.beside is not None:
            beside = _beside(frame, claim, by_title[claim.beside], differences)
        verdicts.append(
            judge(
                claim,
                found.interval,
                values=found.values,
                beside=beside,
                p=found.p_value(claim.bound),
            )
        )
    return holm_corrected(verdicts)


def _beside(
    frame: pd.DataFrame,
    claim: Claim,
    column: Column,
    differences: Sequence[GroupDifference],
) -> Beside | None:
    """Return a figure that should be equal in both groups; None if either lacks it."""
    found = difference_of(frame, claim, column, differences)
    group, other = (
        figure_of(frame, name, column) for name in (claim.group, claim.other)
    )
    if found is None or group is None or other is None:
        return None
    return Beside(column.title, group.value, other.value, found.interval)
