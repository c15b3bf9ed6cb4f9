"""One section per evaluation: upstream's figures next to the corrected ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from eval_recipes.report.cells import (
    Cell,
    Column,
    PageTable,
    figure,
    table,
    text,
)
from eval_recipes.report.meanings import meaning
from eval_recipes.report.source import PageSAE, Source
from eval_recipes.report.verdicts import GroupFigure, behind, group_figure, row_interval
from eval_recipes.results.headlines import metric_of
from eval_recipes.results.outdated import DAGGER, FOOTNOTE
from eval_recipes.tables.listing import sections

DOCS = {
    "examples": ("examples", "examples"),
    "vision": ("vision", "vision"),
    "mdl": ("mdl", "mdl"),
    "attribution": ("attribution", "attribution"),
    "death": ("death", "death"),
    "core": ("core", "core"),
    "cross_seed": ("cross_seed", "cross_seed"),
    "sparse_probing": ("sparse_probing", "sparse-probing"),
    "sparse_probing_sae_probes": ("sae_probes", "sae-probes"),
    "scr": ("scr", "scr-and-tpp"),
    "tpp": ("tpp", "scr-and-tpp"),
    "absorption_first_letter": ("absorption", "absorption"),
    "autointerp": ("autointerp", "autointerp"),
    "meta_structure_decoder_variance": ("meta_structure", "meta-structure"),
    "vocabulary": ("vocabulary", "vocabulary"),
    "steering": ("steering", "steering"),
}
"""Name on the command line, and page below ``docs/evals``, by ``eval_type_id``."""

_CORRECTED = {
    "core": (
        ("reconstruction_quality/(explained_variance|mse)", r"corrected/\1"),
        ("sparsity/(l0)", r"corrected/\1"),
        ("misc_metrics/(frac_alive)", r"corrected/\1"),
    ),
    "sparse_probing": (
        (
            r"(?:sae|llm)/(sae|llm)_top_(\d+)_test_accuracy",
            r"corrected/\1_top_\2_accuracy",
        ),
        (r"(?:sae|llm)/(sae|llm)_test_accuracy", r"corrected/\1_all_accuracy"),
    ),
    "sparse_probing_sae_probes": ((r"(?:sae|llm)/(.+)", r"deduplicated/\1"),),
    "scr": (("scr_metrics/(.+)", r"masked/\1"),),
    "tpp": (("tpp_metrics/(.+)", r"masked/\1"),),
    "absorption_first_letter": (
        ("mean/mean_absorption_fraction_score", "corrected/absorption_fraction"),
        ("mean/mean_full_absorption_score", "corrected/full_absorption_rate"),
    ),
    "autointerp": (
        ("autointerp/autointerp_score", "checked/score"),
        ("autointerp/autointerp_score", "token_explainer/score"),
        ("autointerp/autointerp_score", "n2g/score"),
    ),
    "meta_structure_decoder_variance": (
        ("meta_structure/decoder_(fraction_variance_explained)", r"corrected/\1"),
    ),
    "steering": ((r"embedding_published/(.+)", r"embedding/\1"),),
}
"""Upstream's metric (a regular expression) and what corrects it, by ``eval_type_id``."""

_OURS = frozenset(
    {
        *("checked", "corrected", "deduplicated", "masked", "overlap"),
        *("token_explainer", "n2g"),
        # of steering; upstream has only embedding_published
        *("chat", "contrast", "embedding", "fluency", "latents", "log_probability"),
        "strength",
    }
)
"""Categories that are this package's, in evaluations that upstream has as well."""

_NO_ROW = ("group/", "baseline/")
"""Categories that the section on verdicts shows."""

_MOST = 12
"""Rows to show of an evaluation that names no headlines."""


@dataclass(frozen=True)
class Section:
    """One evaluation on the page."""

    name: str
    summary: str
    docs: str
    figures: PageTable
    saes: PageTable
    everything: PageTable


@dataclass(frozen=True)
class _Pair:
    """SAEBench's metric and this package's; either may be missing."""

    upstream: str | None
    ours: str | None

    @property
    def first(self) -> str:
        """The metric whose title and meaning are shown."""
        return self.ours or self.upstream or ""


def read_sections(source: Source) -> list[Section]:
    """Return a section for each evaluation with results."""
    return [_section(source, name) for name in source.evaluations]


def _section(source: Source, name: str) -> Section:
    frame = source.frame
    mine = frame.loc[(frame["eval"] == name) & frame["value"].notna()]
    pairs = list(_pairs(name, list(dict.fromkeys(mine["metric"]))))
    command, page = DOCS.get(name, (name, None))
    return Section(
        name=name,
        summary=_question(command),
        docs=f"docs/evals/{page}.md" if page else "",
        figures=_figures(source, name, _shown(name, pairs)),
        saes=_saes(source, mine, name, _shown(name, pairs)),
        everything=_everything(source, mine, name),
    )


def _question(command: str) -> str:
    """Return what an evaluation asks, as ``saereg-bench list`` does."""
    known = {row[0]: row[1] for row in sections()["Evaluations"]}
    found = known.get(command, "")
    return f"{found[:1].upper()}{found[1:]}." if found else ""


def _pairs(name: str, metrics: list[str]) -> Iterator[_Pair]:
    """Yield every metric once, upstream's together with what corrects it."""
    rules = _CORRECTED.get(name, ())
    corrected: dict[str, str] = {}
    for metric in metrics:
        for upstream, ours in rules:
            found = re.sub(upstream, ours, metric)
            if re.fullmatch(upstream, metric) and found in metrics:
                corrected[metric] = found
    taken = set(corrected.values())
    for metric in metrics:
        if metric in corrected:
            yield _Pair(metric, corrected[metric])
        elif metric not in taken:
            ours = not rules or metric.split("/")[0] in _OURS
            yield _Pair(None, metric) if ours else _Pair(metric, None)


def _shown(name: str, pairs: list[_Pair]) -> list[_Pair]:
    """Return the headlines of an evaluation, or its first metrics if it names none."""
    listed = [pair for pair in pairs if not pair.first.startswith(_NO_ROW)]
    shown = [
        pair
        for pair in listed
        if any(m and meaning(name, m).shown for m in (pair.upstream, pair.ours))
    ]
    return shown or listed[:_MOST]


def _figures(source: Source, name: str, pairs: list[_Pair]) -> PageTable:
    """Return one row per metric and group."""
    both = name in _CORRECTED
    rows: list[list[Cell]] = []
    for pair in pairs:
        about = meaning(name, pair.first)
        found: list[list[Cell]] = []
        for group in source.groups:
            ours = _group(source, name, group, pair.ours)
            theirs = _group(source, name, group, pair.upstream)
            known = ours or theirs
            if known is not None:
                row = [text(group, group=group), *([_cell(theirs)] if both else [])]
                over = behind(source, group, metric_of(name, pair.first), known)
                found.append([*row, _cell(ours), text(over)])
        for number, row in enumerate(found):
            span = 0 if number else len(found)
            first = text(about.title, note=about.sentence, title=pair.first, span=span)
            rows.append([first, *row])
    heads = ["metric", "group", *([_upstream(name)] if both else [])]
    heads += ["corrected" if both else "mean", "over"]
    caption = f"{name}: mean of each group [95 % interval]"
    return table(f"{name}-figures", caption, heads, rows, sortable=False)


def _upstream(name: str) -> str:
    return "as published" if name == "steering" else "SAEBench's own"


def _group(
    source: Source, name: str, group: str, metric: str | None
) -> GroupFigure | None:
    if metric is None:
        return None
    return group_figure(source.frame, group, metric_of(name, metric))


def _cell(found: GroupFigure | None) -> Cell:
    if found is None:
        return text(None)
    return figure(found.interval, title=found.interval.reason or "")


def _saes(
    source: Source, mine: pd.DataFrame, name: str, pairs: list[_Pair]
) -> PageTable:
    """Return one row per SAE with every shown metric, each as in the summary."""
    metrics = [m for pair in pairs for m in (pair.upstream, pair.ours) if m is not None]
    titles = [meaning(name, metric).title for metric in metrics]
    heads = [Column("SAE"), Column("group")]
    heads += [
        Column(title if titles.count(title) == 1 else metric, metric)
        for title, metric in zip(titles, metrics)
    ]
    values = {
        (row["release"], row["sae_id"], row["metric"]): row
        for row in mine.to_dict("records")
    }
    rows = [
        [
            text(sae.label + (DAGGER if _is_old(mine, sae) else "")),
            text(sae.group, group=sae.group),
            *(_value(values.get((*sae.key, metric))) for metric in metrics),
        ]
        for sae in source.saes
        if any((*sae.key, metric) in values for metric in metrics)
    ]
    notes = [FOOTNOTE] if bool(mine["outdated"].to_numpy().any()) else []
    caption = f"{name}: each SAE [95 % interval, where the evaluation gives one]"
    return table(f"{name}-saes", caption, heads, rows, notes=notes)


def _is_old(mine: pd.DataFrame, sae: PageSAE) -> bool:
    rows = mine.loc[(mine["release"] == sae.release) & (mine["sae_id"] == sae.sae_id)]
    return bool(rows["outdated"].to_numpy().any())


def _value(row: dict[Any, Any] | None) -> Cell:
    return text(None) if row is None else figure(row_interval(row))


def _everything(source: Source, mine: pd.DataFrame, name: str) -> PageTable:
    """Return one row per metric and one column per group."""
    heads = [Column("metric"), *(Column(g, group=g) for g in source.groups)]
    metrics = [
        metric
        for metric in dict.fromkeys(mine["metric"])
        if not metric.startswith("group/")
    ]
    rows = [
        [
            text(metric, title=meaning(name, metric).sentence),
            *(_cell(_group(source, name, group, metric)) for group in source.groups),
        ]
        for metric in metrics
    ]
    caption = f"{name}: all {len(rows)} metrics, mean of each group [95 % interval]"
    return table(f"{name}-all", caption, heads, rows)
