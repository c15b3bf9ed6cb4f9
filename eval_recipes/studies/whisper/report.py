"""Report of the Whisper study: Markdown, JSON and the trade-off's curve."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval_recipes.statistics.interval import Interval
from eval_recipes.studies.framework.report import run_facts
from eval_recipes.studies.framework.verdicts import (
    Verdict,
    summary,
)
from eval_recipes.studies.whisper.conditions import (
    Condition,
    curves,
    tuned_latents,
)
from eval_recipes.studies.whisper.rates import (
    Arm,
    Rule,
)
from eval_recipes.studies.whisper.settings import (
    GROUPS,
    PUBLISHED,
    layer_of,
)
from eval_recipes.studies.whisper.verdicts import (
    RATE,
    WER,
    Measured,
    draws_text,
    verdicts_of,
)
from eval_recipes.tables.plots import save_png
from eval_recipes.tables.table import cell, digits, markdown_table
from saereg_plugin.files import write_json, write_text

TABLE = "table.md"
RESULTS = "results.json"
PICTURE = "whisper-trade-off.png"
FILES = (TABLE, RESULTS, PICTURE)
"""Files of ``write_report``."""

RULES: tuple[Rule, ...] = ("allowed", "forbidden")

_RULES_TEXT = (
    "Two decoding rules: the end of the text is allowed as the first token, or forbidden there, as "
    "the usual generation configurations do. Forbidden, a clip without speech must get a token. "
    "Any text counts as a hallucination. An interval (95 %) resamples groups of clips: takes of one "
    "sound, prompts that say the same. Several SAEs or draws are averaged clip by clip, and their "
    "own values follow."
)


def write_report(measured: Measured, out: Path) -> Path:
    """Write table, JSON and picture into ``out``; return the table's path."""
    facts = run_facts()
    verdicts = verdicts_of(measured)
    write_json(out / RESULTS, _to_json(measured, verdicts, facts))
    save_png(_draw(measured), out / PICTURE)
    write_text(out / TABLE, _to_markdown(measured, verdicts, facts))
    return out / TABLE


def _to_json(
    measured: Measured, verdicts: Sequence[Verdict], facts: dict[str, Any]
) -> dict[str, Any]:
    study = measured.study
    return {
        "study": "whisper, arXiv 2606.07473",
        **facts,
        "settings": dataclasses.asdict(study),
        "tuned": [
            {
                "point": point,
                "group": group,
                **dataclasses.asdict(found),
                "allowed": found.allowed,
            }
            for (point, group), found in measured.tuned.items()
        ],
        "published": [list(row) for row in PUBLISHED],
        "conditions": [_condition_json(measured, one) for one in measured.figures],
        "saes": list(measured.saes),
        "verdicts": [verdict.to_dict() for verdict in verdicts],
        "summary": summary(verdicts),
    }


def _condition_json(measured: Measured, one: dict[str, Any]) -> dict[str, Any]:
    arm, seed = Arm("", (one,)), measured.study.seed
    rates = {rule: arm.rate(rule, seed)._asdict() for rule in RULES}
    silenced = {rule: arm.rate(rule, seed, thresholds=True)._asdict() for rule in RULES}
    wers = {rule: arm.wer(rule, seed)._asdict() for rule in RULES}
    return {
        "condition": one["condition"],
        "norm": one["norm"],
        "hallucination_rate": rates,
        "hallucination_rate_with_thresholds": silenced,
        "word_error_rate": wers,
        "transcripts": {kind: one[kind] for kind in ("noise", "speech")},
    }


def _to_markdown(
    measured: Measured, verdicts: Sequence[Verdict], facts: dict[str, Any]
) -> str:
    study = measured.study
    n_noise, n_speech = (len(measured.figures[0][kind]) for kind in ("noise", "speech"))
    n_groups = len(set(measured.plain.groups("noise")))
    parts = [
        "# Whisper: result tables",
        f"{facts['date']}, `{facts['command']}`. How to read it: `docs/studies/whisper.md` of "
        "saereg-plugin.",
        f"{study.model}: BatchTopK SAEs, {study.expansion} x wide, k {study.k}, "
        f"{study.frames:,} frames each, {len(study.seeds)} seeds; {n_noise} held-out clips "
        f"without speech ({n_groups} groups of takes), {n_speech} held-out prompts. Strength "
        "and number of latents are chosen "
        f"on {study.tuning_clips} training clips of each kind, where the word error rate may rise "
        f"by {digits(study.allowed_wer)}.",
        "Published (arXiv 2606.07473):",
        markdown_table(["model", "edit", RATE, WER], PUBLISHED),
        "Models, clips and languages differ: directions can be compared, never levels.",
        _RULES_TEXT,
        "## Tuned edits",
        _arms_table(measured),
        "## Chosen on training clips",
        _tuned_table(measured),
        "## What held",
        summary(verdicts),
        "\n".join(f"- {verdict.sentence}" for verdict in verdicts),
        "\n".join(f"- {draws_text(measured, arm)}" for arm in measured.controls),
        "Statements are judged where the end is allowed first, by intervals over groups of clips "
        "(against random draws: over groups and draws; of L2: over seeds), without correction for "
        "their number.",
        "## Trade-off",
        _curve_table(measured),
        f"![Hallucination rate against word error rate]({PICTURE})",
        "## SAEs",
        _sae_table(measured),
    ]
    return "\n\n".join(parts) + "\n"


def _arms_table(measured: Measured) -> str:
    heads = ["edit", "layer", "alpha", "latents", "norm"]
    heads += [f"{RATE}, end allowed", f"{RATE}, end forbidden", "with thresholds"]
    heads += [f"{WER}, end allowed", f"{WER}, end forbidden", "each, end allowed"]
    rows = [_arm_row(measured, measured.plain)]
    for point in reversed(measured.study.points):
        rows += [_arm_row(measured, arm) for arm in measured.arms(point)]
    return markdown_table(heads, rows)


def _arm_row(measured: Measured, arm: Arm) -> list[str]:
    seed, first = measured.study.seed, arm.conditions[0]
    each = [f"{digits(rate)}, {digits(wer)}" for rate, wer in arm.members("allowed")]
    return [
        arm.title,
        str(layer_of(first.point)) if first.point else "-",
        digits(first.alpha) if first.alpha else "-",
        str(first.count) if first.count else "-",
        digits(arm.norm),
        *(cell(arm.rate(rule, seed)) for rule in RULES),
        cell(arm.rate("forbidden", seed, thresholds=True)),
        *(cell(arm.wer(rule, seed)) for rule in RULES),
        "; ".join(each) if len(each) > 1 else "-",
    ]


def _tuned_table(measured: Measured) -> str:
    """Return what each choice gave on the training clips that chose it."""
    heads = ["edit", "layer", "alpha", "latents", RATE, WER, f"most {WER}", "kept"]
    rows = [
        [
            f"latents, {group}" if group else "mean difference",
            str(layer_of(point)),
            digits(found.alpha),
            str(found.count) if found.count else "-",
            *(digits(value) for value in (found.rate, found.wer, found.most_wer)),
            "yes" if found.allowed else "**no**",
        ]
        for (point, group), found in measured.tuned.items()
    ]
    return (
        f"{markdown_table(heads, rows)}\n\nThe end is allowed first. Kept: whether any strength "
        "kept the allowed word error rate; if none did, the row is the one of the lowest."
    )


Point = tuple[float, Interval, Interval]
"""Strength, hallucination rate and word error rate."""


def curve_points(measured: Measured, rule: Rule) -> dict[str, list[Point]]:
    """Return the curve of each edit at the last point over strengths, of the first seed."""
    return {
        title: [_curve_point(measured, condition, rule) for condition in conditions]
        for title, conditions in curves(measured.study, measured.tuned)
    }


def _curve_point(measured: Measured, condition: Condition, rule: Rule) -> Point:
    arm, seed = measured.arm("", [condition]), measured.study.seed
    return condition.alpha, arm.rate(rule, seed), arm.wer(rule, seed)


def _curve_table(measured: Measured) -> str:
    heads = ["edit, first seed", "alpha", "end", RATE, WER]
    rows = [
        [title, digits(alpha), rule, cell(rate), cell(wer)]
        for rule in RULES
        for title, points in curve_points(measured, rule).items()
        for alpha, rate, wer in points
    ]
    return f"{markdown_table(heads, rows)}\n\n{_count_table(measured)}"


def _count_table(measured: Measured) -> str:
    """Return the rates by number of latents, of the first SAE without a penalty."""
    study, point = measured.study, measured.study.last
    tuned = measured.tuned[point, GROUPS[0]]
    best = tuned_latents(study, point, GROUPS[0], tuned)[0]
    rows: list[list[str]] = []
    for count in study.counts:
        condition = dataclasses.replace(best, count=count)
        alpha, rate, wer = _curve_point(measured, condition, "allowed")
        rows.append([str(count), digits(alpha), cell(rate), cell(wer)])
    return markdown_table(["latents, end allowed", "alpha", RATE, WER], rows)


def _sae_table(measured: Measured) -> str:
    heads = ["layer", "group", "seed", "AUROC of the chosen latents", "FVU", "L0"]
    rows = [
        [
            str(layer_of(one["point"])),
            one["group"],
            str(one["seed"]),
            cell(Interval(**one["selection"]["together"])),
            digits(one["fvu"]),
            digits(one["l0"]),
        ]
        for one in measured.saes
    ]
    return (
        f"{markdown_table(heads, rows)}\n\nAUROC: a logistic regression on the chosen latents "
        "tells clips without speech from prompts, on the half of the training clips that did not "
        "choose. FVU (share of variance unexplained) and L0: frames of held-out prompts."
    )


def _draw(measured: Measured) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes: Any = figure.subplots(1, 2, sharey=True)
    for rule, ax in zip(RULES, axes, strict=True):
        _draw_curves(measured, rule, ax)
    axes[0].set_ylabel(RATE)
    axes[0].legend(fontsize="small")
    return figure


def _draw_curves(measured: Measured, rule: Rule, ax: Axes) -> None:
    seed = measured.study.seed
    plain = measured.plain
    start = (plain.wer(rule, seed).value, plain.rate(rule, seed).value)
    for title, points in curve_points(measured, rule).items():
        wers = [start[0], *(wer.value for _, _, wer in points)]
        rates = [start[1], *(rate.value for _, rate, _ in points)]
        ax.plot(wers, rates, marker="o", markersize=3, label=title)
    ax.plot(*start, "k*", markersize=10, label="no edit")
    ax.set_title(f"end {rule} as the first token", fontsize="medium")
    ax.set_xlabel(WER)
    ax.set_xscale("symlog", linthresh=0.1)
    ax.set_ylim(-0.03, 1.03)
