"""Write the report of what is finished: JSON, Markdown and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval_recipes.studies.mnist.figures import (
    draw_cosine_histograms,
    draw_kept,
    draw_shared_latents,
)
from eval_recipes.studies.mnist.finished import find_finished
from eval_recipes.studies.mnist.images import Images
from eval_recipes.studies.mnist.leftovers import remove_leftovers
from eval_recipes.studies.mnist.markdown import to_markdown
from eval_recipes.studies.mnist.report import (
    build_report,
    group_baselines,
    group_runs,
)
from eval_recipes.studies.mnist.settings import Run, Training
from eval_recipes.studies.study_folder import only_user
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_json, write_text

REPORT = "report.md"


def write_report(
    runs: Sequence[Run], training: Training, images: Images, out: Path
) -> dict[str, Any]:
    """
    Write ``report.json``, ``report.md`` and the pictures into ``out``; return the report.

    Raises:
        InputError: if no run is finished, one is of other settings, or another process
            uses the folder.
    """
    with only_user(out):
        for folder in (out, *(out / run.name for run in runs)):
            remove_leftovers(folder)
        return _write(runs, training, images, out)


def _write(
    runs: Sequence[Run], training: Training, images: Images, out: Path
) -> dict[str, Any]:
    groups = group_runs(find_finished(runs, training, images, out))
    if not groups:
        raise InputError(
            f"Folder {str(out)!r} has no SAE with all its {training.epochs} epochs yet, of "
            f"{len(runs)} planned. Train first: leave --report-only out."
        )
    baselines = group_baselines(groups, training)
    report = build_report(groups, baselines, runs, training, images)
    write_json(out / "report.json", report)
    draw_cosine_histograms(groups, out / "encoder-decoder-cosines.png")
    draw_shared_latents(groups, out / "shared-latents.png")
    draw_kept(groups, out / "kept-latents.png")
    write_text(out / REPORT, to_markdown(report))
    return report
