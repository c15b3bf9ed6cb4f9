"""The steering study in words and numbers, beside the published figures: Markdown and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval_recipes.report import digits
from eval_recipes.steering.compare import (
    GroupRates,
    SteeredGroup,
    by_group,
    common_judges,
    config_value,
    difference,
    group_rates,
    read_groups,
    stability_over_groups,
)
from eval_recipes.steering.figures import figure_of
from eval_recipes.steering.filling import readable
from eval_recipes.studies.report import markdown_table
from eval_recipes.studies.steering import SteeringOutcome
from eval_recipes.studies.steering_runs import SteeringStudy
from eval_recipes.studies.steering_statements import cell, statements
from saereg_plugin import provenance
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_json, write_text

TABLE = "table.md"
RESULTS = "results.json"

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

    A run that lacks a group, or whose results do not fit together, has a section that says so.
    """
    sections = [
        _written(outcome, run.name, out / "results" / run.name) for run in outcome.runs
    ]
    write_json(
        out / RESULTS,
        {
            "date": provenance.now(),
            "command": provenance.command(),
            "versions": provenance.versions(),
            "hardware": provenance.hardware(),
            "published": [list(row) for row in PUBLISHED_ROWS],
            "runs": [section["json"] for section in sections],
            "failures": [vars(failure) for failure in outcome.failures],
        },
    )
    parts = [
        "# Study steering",
        f"{provenance.now()}, `{provenance.command()}`.",
        "Published (arXiv 2603.04198):\n\n"
        + markdown_table(["group", "figure", "published"], PUBLISHED_ROWS),
        _NOT_COMPARABLE,
        *(section["markdown"] for section in sections),
    ]
    if outcome.failures:
        lines = [
            f"- {one.eval} of {one.sae_id}: {one.cause}" for one in outcome.failures
        ]
        parts.append("Trouble:\n\n" + "\n".join(lines))
    write_text(out / TABLE, "\n\n".join(parts) + "\n")
    return out / TABLE


def _written(outcome: SteeringOutcome, name: str, results: Path) -> dict[str, Any]:
    """Return one run as Markdown and as JSON; what is missing is said in both."""
    failed = [one.sae_id for one in outcome.by_run.get(name, [])]
    missing = f"Without {', '.join(failed)}, which failed (see Trouble)."
    try:
        section = _section(outcome.study, name, results)
    except InputError as error:
        return {
            "markdown": f"## {name}\n\nNot complete: {error}",
            "json": {"run": name, "failed": failed, "not_complete": str(error)},
        }
    if failed:
        section["markdown"] += f"\n\n{missing}"
    section["json"]["failed"] = failed
    return section


def _section(study: SteeringStudy, name: str, results: Path) -> dict[str, Any]:
    """Return one run as Markdown and as JSON; raises InputError if a group is missing."""
    found = by_group(read_groups(results))
    missing = [group for group in (study.baseline, study.group) if group not in found]
    if missing:
        raise InputError(
            f"Results {str(results)!r} hold nothing of group {missing[0]!r}; expected both groups. "
            "All of its SAEs failed: see Trouble, then run the same command again."
        )
    groups = [found[study.baseline], found[study.group]]
    amounts: list[float] = config_value(groups, "amounts")
    mode = config_value(groups, "strength_mode")
    ratio: float = config_value(groups, "max_perplexity_ratio")
    seed: int = config_value(groups, "random_seed")
    rows: list[list[str]] = []
    said: list[str] = []
    data: list[dict[str, Any]] = []
    for judge_name in common_judges(groups):
        for amount in amounts:
            rates = [
                group_rates(group, judge_name, amount, max_ratio=ratio, seed=seed)
                for group in groups
            ]
            against = difference(groups[1], groups[0], judge_name, amount, seed=seed)
            pooled = stability_over_groups(groups, judge_name, amount)
            where = f"{judge_name}, {mode} {amount:g}"
            rows += [
                _row(where, group, figures, _ratio(group, judge_name, amount))
                for group, figures in zip(groups, rates, strict=True)
            ]
            said += [
                f"- {where}: {line}"
                for line in statements(study, rates, against, pooled)
            ]
            data.append(
                {
                    "judge": judge_name,
                    "amount": amount,
                    "groups": {
                        group.name: readable(figures)
                        for group, figures in zip(groups, rates, strict=True)
                    },
                    "difference": readable(against),
                    "stability": readable(pooled),
                    "statements": statements(study, rates, against, pooled),
                }
            )
    heads = [
        *("judge, strength", "strength / norm", "group", "latents", "distinct pairs"),
        "success",
        *("fluent success", "unsteered", "random direction", "fluency loss"),
        *("over seeds", "Spearman", "point-biserial", "slope (clustered SE)"),
    ]
    text = (
        f"## {name}\n\n{_about(groups)} Success over all SAEs of a group [95 % interval, latents drawn]; "
        f"fluent: perplexity at most {ratio:g} x the unsteered one.\n\n"
        f"{markdown_table(heads, rows)}\n\nWhat held:\n\n" + "\n".join(said)
    )
    return {"markdown": text, "json": {"run": name, "mode": mode, "figures": data}}


def _about(groups: list[SteeredGroup]) -> str:
    """Say what was steered and how much of it."""
    record = groups[0].records[0]
    extra, settings = record["eval_result_unstructured"], record["eval_config"]
    return (
        f"{extra['model']} in {extra['dtype']}, {settings['n_latents']} candidates an SAE, "
        f"explained by {extra['explainer']}."
    )


def _row(
    where: str, group: SteeredGroup, found: GroupRates, ratio: float | None
) -> list[str]:
    rates, interp = found.rates, found.links.interp
    slope = interp.slope.coefficients.get("score") if interp else None
    latents = rates.success.n if rates.success else 0
    return [
        where,
        "-" if ratio is None else digits(ratio),
        group.name,
        str(latents),
        str(rates.counts["steered"].distinct),
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


def _ratio(group: SteeredGroup, judge_name: str, amount: float) -> float | None:
    """Return strength over median residual norm, of the group's first SAE."""
    for point in group.records[0]["eval_result_details"]:
        if (point["judge"], point["amount"]) == (judge_name, amount):
            return point["ratio"]
    return None
