"""Run of a study, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from eval_recipes.report.page import PAGE
from eval_recipes.report.page import write_report as write_page
from eval_recipes.results.reading import result_files
from eval_recipes.running.context import ModelCache, RunContext
from eval_recipes.running.run import run_evals, subjects_of
from eval_recipes.studies.framework.definition import (
    Choice,
    Scale,
    Stage,
    Study,
    StudyRun,
)
from eval_recipes.studies.framework.figures import measure
from eval_recipes.studies.framework.report import FILES, write_report
from eval_recipes.studies.framework.study_folder import (
    mark_folder,
    study_folder,
)
from saereg_plugin.machine import AUTO, resolve_device
from saereg_plugin.sources import corpora, models
from saereg_plugin.sweeps import SweepConfig, run_sweep

Progress = Callable[[str], None]


def run_study(
    study: Study,
    scale: Scale,
    out: Path,
    *,
    device: str = AUTO,
    progress: Progress = lambda _: None,
) -> StudyRun:
    """
    Run a study into ``out`` and write its report there; an interrupted study resumes.

    Each stage is a release folder ``out/releases/<stage>``, results in
    ``out/results/<stage>`` and further figures in ``out/figures/<stage>.json``; the report is
    ``table.md``, ``results.json``, ``results.csv``, and the page ``report.html``.

    ``out`` is the folder of this study at this scale, and of nothing else; ``device`` is a torch
    device, or "auto" (CUDA, else MPS, else the CPU; training that was begun keeps its own);
    ``progress`` is called with a line on each next step.

    Raises:
        InputError: before anything is loaded, if model or text are out of reach, or the
            folder holds the user's files, is not writable, in use, or of another study.
    """
    plan = replace(study.plan(scale), device=resolve_device(device))
    files = [*FILES, PAGE, *(_figures_file(stage) for stage in plan.stages)]
    with study_folder(out, study.name, scale, files=files):
        progress(f"Device {plan.device}.")
        run = _run_stages(StudyRun(study, scale, plan), device, out, progress)
        if run.finished:
            # before another process may change what it reports on
            run.table = write_report(run, out)
            run.page = _write_page(run, out)
        return run


def _write_page(run: StudyRun, out: Path) -> Path | None:
    """Write the report page next to the table, if any stage has results."""
    results = out / "results"
    if not results.is_dir() or not result_files(results):
        return None
    releases = [
        out / "releases" / stage.name
        for stage in run.plan.stages
        if (results / stage.name).is_dir() and result_files(results / stage.name)
    ]
    return write_page(results, release=releases, out=out / PAGE, failures=run.failures)


def _run_stages(run: StudyRun, device: str, out: Path, progress: Progress) -> StudyRun:
    shared = ModelCache()
    first = run.plan.stages[0]
    _require_sources(first.sweep(run.frame))
    # only once the first stage can run
    mark_folder(out, run.study.name, run.scale)
    for number, stage in enumerate(run.plan.stages, start=1):
        sweep = replace(stage.sweep(run.frame), device=device)
        progress(
            f"Stage {number} of {len(run.plan.stages)}, {stage.name}: "
            f"{len(sweep.groups)} groups, {len(sweep.seeds)} seeds, {sweep.steps} steps."
        )
        if not _train(run, stage, sweep, out, progress):
            return run
        progress(f"Evaluating {stage.name}.")
        _evaluate(run, stage, out, shared, progress)
    run.finished = True
    return run


def _train(
    run: StudyRun, stage: Stage, sweep: SweepConfig, out: Path, progress: Progress
) -> bool:
    """Train a stage; return False if it was interrupted."""
    name = f"{run.study.name}-{run.scale}-{stage.name}"
    folder = out / "releases" / stage.name
    result = run_sweep(sweep, folder, name=name, progress=progress)
    run.stopped += result.stopped
    if result.release is None:
        return False
    # as recorded, so that a finished study says it again
    provenance = result.release.provenance
    run.training_seconds += provenance["training_seconds"]
    if "pairs_across_documents" in provenance:
        run.pairs_across_documents[stage.name] = provenance["pairs_across_documents"]
    return True


def _evaluate(
    run: StudyRun, stage: Stage, out: Path, shared: ModelCache, progress: Progress
) -> None:
    plan = run.plan
    context = RunContext(
        subjects=subjects_of(str(out / "releases" / stage.name)),
        out=out / "results" / stage.name,
        corpus=plan.corpus,
        heldout_tokens=plan.heldout_tokens,
        dtype=plan.llm_dtype,
        device=plan.device,
        data=plan.data,
        options={
            name: dict(settings)
            for name, settings in plan.options.items()
            if name in stage.evals
        },
        models=shared,
    )
    frames: list[pd.DataFrame] = []
    if stage.evals:
        outcome = run_evals(stage.evals, context, resume=True, progress=progress)
        frames.append(outcome.frame)
        run.differences += outcome.differences
        run.failures += outcome.failures
    figures, failures = measure(context, out / _figures_file(stage))
    run.failures += failures
    # these first: they name the groups in the order in which they were trained
    own = pd.concat([figures, *frames], ignore_index=True).assign(stage=stage.name)
    run.frame = own if run.frame.empty else pd.concat([run.frame, own])
    run.frame = run.frame.reset_index(drop=True)
    if stage.choice is not None:
        found: Sequence[Choice] = stage.choice(run.frame)
        run.choices += found


def _figures_file(stage: Stage) -> str:
    # outside the results folder, which has its own mark
    return f"figures/{stage.name}.json"


def _require_sources(sweep: SweepConfig) -> None:
    """Fail within seconds if model or text cannot be had."""
    models.ensure(sweep.model)
    corpora.ensure(sweep.corpus, "train")
