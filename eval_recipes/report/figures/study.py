"""Table, passages and statements of a study."""

from __future__ import annotations

import re
from typing import Any

from eval_recipes.report.cells import Cell, Column, PageTable, table, text
from eval_recipes.report.figures.definitions import definition
from eval_recipes.report.figures.part import (
    Content,
    Number,
    PagePassage,
    Part,
    Value,
    count_cell,
    facts_of,
    group_cell,
    named_table,
    seed_cell,
    value_cell,
)


class _OfSeed(Content):
    seed: int
    value: Number


class _Figure(Value):
    values: list[_OfSeed] = []


class _Group(Content):
    group: str
    figures: dict[str, _Figure | None]


class _Head(Content):
    title: str
    eval: str
    metric: str


class _Passage(Content):
    text: str
    points: list[str] = []
    heads: list[str] = []
    rows: list[list[str | Value | None]] = []


class _Verdict(Content):
    sentence: str


class _Compared(Content):
    kind: str
    group: str
    other: str
    metric: str
    difference: Number | None = None
    low: Number | None = None
    high: Number | None = None
    n: int | None = None
    reason: str | None = None


class _Published(Content):
    group: str
    column: str
    value: Number
    note: str = ""


class _Choice(Content):
    name: str
    coefficient: Number
    baseline: Number


class _Study(Content):
    study: str
    scale: str
    paper: str = ""
    about: str = ""
    settings: str = ""
    summary: str = ""
    columns: list[_Head] = []
    groups: list[_Group]
    passages: list[_Passage] = []
    verdicts: list[_Verdict] = []
    comparisons: list[_Compared] = []
    published: list[_Published] = []
    choices: list[_Choice] = []
    notes: list[str] = []


_NAME = re.compile("[a-z0-9-]+")
_OWN = (
    *("study", "scale", "about", "paper", "settings", "summary", "notes", "stopped"),
    "failures",
)
"""Fields that are shown elsewhere."""


def study_part(name: str, content: Any) -> Part:
    """Return the table of a study, what it says beside it, and what held."""
    found = _Study.model_validate(content)
    titles = _titles(found)
    sentences = [one.sentence for one in found.verdicts]
    held = [PagePassage(f"What held. {found.summary}", sentences)] if sentences else []
    paper = f"Source: {found.paper}." if found.paper else ""
    passages = [
        _passage(f"{name}-passage-{number}", one)
        for number, one in enumerate(found.passages, start=1)
    ]
    return Part(
        title=f"study {found.study}, scale {found.scale}",
        summary=" ".join(filter(None, (found.about, paper, found.settings))),
        docs=f"docs/studies/{found.study}.md" if _NAME.fullmatch(found.study) else "",
        facts=facts_of(content, _OWN),
        tables=[_groups(f"{name}-groups", found, titles)],
        details=[_seeds(f"{name}-seeds", found, titles)],
        definitions=[
            (head.title, sentence)
            for head in found.columns
            if head.title in titles and (sentence := definition(head.eval, head.metric))
        ],
        passages=[*passages, *_further(name, found), *held],
        notes=found.notes,
    )


def _titles(found: _Study) -> list[str]:
    """Return the figures that any group has."""
    known = [
        title
        for group in found.groups
        for title, figure in group.figures.items()
        if figure is not None
    ]
    ordered = [head.title for head in found.columns if head.title in known]
    return [*dict.fromkeys([*ordered, *known])]


def _groups(name: str, found: _Study, titles: list[str]) -> PageTable:
    rows: list[list[Cell]] = []
    for group in found.groups:
        figures = [group.figures.get(title) for title in titles]
        seeds = {one.seed for figure in figures if figure for one in figure.values}
        cells = [text(None) if one is None else one.cell() for one in figures]
        rows.append([group_cell(group.group), count_cell(len(seeds)), *cells])
    caption = (
        f"{found.study}: mean over seeds [95 % interval over seeds, Student's t; for figures of pairs as "
        "cross_seed gives it]"
    )
    return table(name, caption, ["group", "seeds", *titles], rows)


def _seeds(name: str, found: _Study, titles: list[str]) -> PageTable:
    rows: list[list[Cell]] = []
    for group in found.groups:
        by_seed: dict[int, dict[str, float]] = {}
        for title, figure in group.figures.items():
            for one in figure.values if figure else ():
                by_seed.setdefault(one.seed, {})[title] = one.value
        for seed, values in sorted(by_seed.items()):
            cells = [value_cell(values.get(title)) for title in titles]
            rows.append([group_cell(group.group), seed_cell(seed), *cells])
    return table(name, f"{found.study}: each seed", ["group", "seed", *titles], rows)


def _passage(name: str, one: _Passage) -> PagePassage:
    caption = one.text.rstrip(":")
    if not one.heads:
        return PagePassage(one.text, one.points)
    rows = [_cells(row, len(one.heads)) for row in one.rows]
    return PagePassage(
        one.text if one.points else "",
        one.points,
        table(name, caption, [*map(Column, one.heads)], rows),
    )


def _cells(row: list[str | Value | None], width: int) -> list[Cell]:
    """Return the cells of a row, as many as the table has heads."""
    cells = [one.cell() if isinstance(one, Value) else text(one) for one in row]
    return [*cells, *[text(None)] * (width - len(cells))][:width]


def _further(name: str, found: _Study) -> list[PagePassage]:
    """Return comparisons, published numbers and choices, where the study has them."""
    tables: list[PageTable] = []
    if found.choices:
        chosen = found.choices
        tables.append(
            named_table(
                f"{name}-choices",
                "Chosen coefficients: the largest whose explained variance is at least the baseline's",
                {
                    "of": [text(one.name) for one in chosen],
                    "coefficient": [text(f"{one.coefficient:g}") for one in chosen],
                    "baseline": [value_cell(one.baseline) for one in chosen],
                },
            )
        )
    if found.published:
        numbers = found.published
        tables.append(
            named_table(
                f"{name}-published",
                "Published numbers",
                {
                    "group": [group_cell(one.group) for one in numbers],
                    "figure": [text(one.column) for one in numbers],
                    "published": [value_cell(one.value) for one in numbers],
                    "note": [text(one.note) for one in numbers],
                },
            )
        )
    if found.comparisons:
        compared = found.comparisons
        tables.append(
            named_table(
                f"{name}-comparisons",
                "Further comparisons [95 % interval]",
                {
                    "comparison": [text(one.kind) for one in compared],
                    "groups": [
                        text(f"{one.group} \N{MINUS SIGN} {one.other}")
                        for one in compared
                    ],
                    "figure": [text(one.metric) for one in compared],
                    "difference": [
                        value_cell(one.difference, one.low, one.high)
                        for one in compared
                    ],
                    "n": [count_cell(one.n) for one in compared],
                    "why no interval": [text(one.reason) for one in compared],
                },
            )
        )
    return [PagePassage("", table=one) for one in tables]
