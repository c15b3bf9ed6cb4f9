"""The steering study in words and numbers, beside the published figures: Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval_recipes.steering.results.plots import draw
from eval_recipes.steering.stats.read_results import SaeKey, steering_results
from eval_recipes.studies.framework.report import markdown_table
from eval_recipes.studies.steering.grid import grid_text
from eval_recipes.studies.steering.outcome import SteeringOutcome
from eval_recipes.studies.steering.runs import RATIO, SteeringRun
from eval_recipes.studies.steering.sections import Section, corrected, section_of
from eval_recipes.studies.steering.table import section_json, section_text
from saereg_plugin import provenance
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path, write_json, write_text

TABLE = "table.md"
RESULTS = "results.json"
PICTURE = "steering.png"
FILES = (TABLE, RESULTS, PICTURE)
"""What ``write_steering_report`` writes."""

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
    The grid's runs share one table. Beside them stands ``steering.png``, success against
    fluency of the run at several strengths, if there is one.
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
        failed = [one.sae_id for one in outcome.by_run.get(name, [])]
        if isinstance(section, InputError):
            said = f"Not complete: {section}"
            if run.grid:
                trouble_of_grid.append(f"{name}: {said}")
            else:
                parts.append(f"## {name}\n\n{said}")
            data.append({"run": name, "failed": failed, "not_complete": str(section)})
            continue
        section = settled.get(name, section)
        data.append({**section_json(outcome.study, section), "failed": failed})
        if run.grid:
            grid.append((run, section))
        else:
            parts.append(section_text(outcome.study, section))
        if failed:
            said = f"{name} without {', '.join(failed)}, which failed (see Trouble)."
            (trouble_of_grid if run.grid else parts).append(said)
    if RATIO in settled:
        _write_picture(out, _saes(outcome, RATIO))
        parts.append(
            f"Success against fluency of {RATIO}, each SAE by its own threshold: `{PICTURE}`."
        )
    if grid or trouble_of_grid:
        parts.append("## grid")
    if grid:
        parts.append(grid_text(outcome.study, grid))
    parts += trouble_of_grid
    write_json(
        out / RESULTS,
        {
            "date": provenance.now(),
            "command": provenance.command(),
            "versions": provenance.versions(),
            "hardware": provenance.hardware(),
            "published": [list(row) for row in PUBLISHED_ROWS],
            "runs": data,
            "stopped": outcome.stopped,
            "failures": [vars(failure) for failure in outcome.failures],
        },
    )
    head = [
        "# Study steering",
        f"{provenance.now()}, `{provenance.command()}`.",
        "Published (arXiv 2603.04198):\n\n"
        + markdown_table(["group", "figure", "published"], PUBLISHED_ROWS),
        _NOT_COMPARABLE,
        *_how_to_read(list(settled.values())),
    ]
    write_text(out / TABLE, "\n\n".join([*head, *parts, *_troubles(outcome)]) + "\n")
    return out / TABLE


def _write_picture(out: Path, keep: frozenset[SaeKey] | None) -> None:
    records = [record for _, record in steering_results(out / "results" / RATIO, keep)]
    with atomic_path(out / PICTURE) as temporary:
        draw(records).savefig(temporary, format="png", dpi=150)


def _saes(outcome: SteeringOutcome, run: str) -> frozenset[SaeKey] | None:
    return outcome.saes.get(run)


def _section(outcome: SteeringOutcome, name: str, out: Path) -> Section | InputError:
    """Return one run's figures, or why there are none."""
    try:
        return section_of(
            outcome.study, name, out / "results" / name, _saes(outcome, name)
        )
    except InputError as error:
        return error


def _how_to_read(sections: Sequence[Section]) -> list[str]:
    """Say what verdicts rest on; nothing where there are none."""
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
