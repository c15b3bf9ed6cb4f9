"""Report of a study: Markdown, JSON, CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval_recipes.statistics.seeds import Interval
from eval_recipes.studies.framework.definition import Column, StudyRun
from eval_recipes.studies.framework.figures import (
    figure_of,
    groups_of,
    judge_all,
    values_of,
)
from eval_recipes.studies.framework.verdicts import Verdict, summary
from eval_recipes.tables.cells import cell, digits, markdown_table
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
        "settings": run.plan.settings,
        **facts,
        "groups": groups,
        "published": [vars(number) for number in run.study.published],
        "choices": [choice.to_dict() for choice in run.choices],
        "verdicts": [verdict.to_dict() for verdict in verdicts],
        "summary": summary(verdicts),
        "pairs_across_documents": run.pairs_across_documents,
        "stopped": run.stopped,
        "failures": [vars(failure) for failure in run.failures],
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
        *_crossing(run),
        *([_choices(run)] if run.choices else []),
        _published(run),
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
    numbers = run.study.published
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
