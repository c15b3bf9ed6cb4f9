"""Write the report of what is finished: JSON, Markdown and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval_recipes.studies.framework.study_folder import mark_folder, study_folder
from eval_recipes.studies.mnist.figures import (
    draw_cosine_histograms,
    draw_kept,
    draw_shared_latents,
)
from eval_recipes.studies.mnist.finished import find_finished
from eval_recipes.studies.mnist.images import Images
from eval_recipes.studies.mnist.markdown import to_markdown
from eval_recipes.studies.mnist.report import (
    build_report,
    group_baselines,
    group_runs,
)
from eval_recipes.studies.mnist.settings import STUDY, Run, Training
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_json, write_text
from saereg_plugin.owned_folder import OwnedFolder

REPORT = "report.md"
_REPORT_JSON = "report.json"
_COSINES, _SHARED, _KEPT = (
    f"{name}.png"
    for name in ("encoder-decoder-cosines", "shared-latents", "kept-latents")
)
FILES = (REPORT, _REPORT_JSON, _COSINES, _SHARED, _KEPT)
"""What ``write_report`` writes into the study's folder itself."""


def write_report(
    runs: Sequence[Run], training: Training, images: Images, out: Path
) -> dict[str, Any]:
    """
    Write ``report.json``, ``report.md`` and the pictures into ``out``; return the report.

    Raises:
        InputError: if no run is finished, one is of other settings, or the folder holds the
            user's files or is used by another process.
    """
    with study_folder(out, *STUDY, files=FILES) as owned:
        return _write(runs, training, images, owned)


def _write(
    runs: Sequence[Run], training: Training, images: Images, owned: OwnedFolder
) -> dict[str, Any]:
    out = owned.path
    groups = group_runs(find_finished(runs, training, images, owned))
    if not groups:
        raise InputError(
            f"Folder {str(out)!r} has no SAE with all its {training.epochs} epochs yet, of "
            f"{len(runs)} planned. Train first: leave --report-only out."
        )
    mark_folder(out, *STUDY)
    baselines = group_baselines(groups, training)
    report = build_report(groups, baselines, runs, training, images)
    write_json(out / _REPORT_JSON, report)
    draw_cosine_histograms(groups, out / _COSINES)
    draw_shared_latents(groups, out / _SHARED)
    draw_kept(groups, out / _KEPT)
    write_text(out / REPORT, to_markdown(report))
    return report
