"""Run of a study, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from eval_recipes.report.page import PAGE
from eval_recipes.report.page import write_report as write_page
from eval_recipes.results.reading import result_files
from eval_recipes.results.subject import Subject
from eval_recipes.results.tidy import frame_of_rows
from eval_recipes.revival.comparison import compare
from eval_recipes.running.context import ModelCache, RunContext
from eval_recipes.running.plan import digest
from eval_recipes.running.run import run_evals, subjects_of
from eval_recipes.studies.framework.definition import (
    Choice,
    Revive,
    Scale,
    Stage,
    Study,
    StudyRun,
)
from eval_recipes.studies.framework.figures import measure
from eval_recipes.studies.framework.report import FILES, RESULTS, write_report
from eval_recipes.studies.framework.study_folder import (
    mark_folder,
    study_folder,
)
from eval_recipes.tables.passage import Passage
from saereg_plugin.activations.cache import INDEX, write_cache
from saereg_plugin.activations.cache.index import read_index
from saereg_plugin.activations.opening import open_source
from saereg_plugin.distillation.training import train_part
from saereg_plugin.finetuning import finetune
from saereg_plugin.machine import AUTO, resolve_device
from saereg_plugin.revival.training import (
    NothingDeadError,
    plan_revival,
    run_revival,
)
from saereg_plugin.sources import corpora, models
from saereg_plugin.sweeps import SweepConfig, run_sweep
from saereg_plugin.sweeps.config import sae_id
from saereg_plugin.sweeps.source import LANGUAGE_MODEL, kind_of_source, with_source

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
    figures = [_figures_file(stage) for stage in plan.stages]
    files = [*FILES, PAGE, *figures, *study.files]
    with study_folder(out, study.name, scale, files=files):
        progress(f"Device {plan.device}.")
        run = _run_stages(StudyRun(study, scale, plan), device, out, progress)
        if run.finished:
            # before another process may change what it reports on
            run.table = write_report(run, out)
            run.page = _write_page(run, out)
        return run


def _write_page(run: StudyRun, out: Path) -> Path:
    """Write the report page next to the table: the study's figures, and all results."""
    results = out / "results"
    if not results.is_dir() or not result_files(results):
        # a study that measures its figures itself
        return write_page(out, failures=run.failures)
    releases = [
        out / "releases" / stage.name
        for stage in run.plan.stages
        if (results / stage.name).is_dir() and result_files(results / stage.name)
    ]
    return write_page(
        results,
        release=releases,
        out=out / PAGE,
        failures=run.failures,
        figures=[out / RESULTS],
    )


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
    if run.plan.revive is not None and not _revive(
        run, run.plan.revive, device, out, shared, progress
    ):
        return run
    if run.study.finish is not None:
        progress("Measuring all stages together.")
        _finish(run, run.study.finish, out, shared)
    run.finished = True
    return run


def _train(
    run: StudyRun, stage: Stage, sweep: SweepConfig, out: Path, progress: Progress
) -> bool:
    """Train a stage in its way; return False if it was interrupted."""
    name = f"{run.study.name}-{run.scale}-{stage.name}"
    folder = out / "releases" / stage.name
    if stage.tuned is not None:
        settings = replace(stage.tuned.settings, device=sweep.device)
        of = out / "releases" / stage.tuned.of
        result = finetune(
            of, out=folder, settings=settings, name=name, progress=progress
        )
    elif stage.distill is not None:
        own = replace(stage.distill.sweep, device=sweep.device)
        result = train_part(
            replace(stage.distill, sweep=own),
            out / "releases",
            stage.name,
            name=f"{run.study.name}-{run.scale}",
            progress=progress,
        )
    else:
        cached = with_cache(sweep, out / ACTIVATIONS, run.plan.device, progress)
        if cached is None:
            return False
        result = run_sweep(cached, folder, name=name, progress=progress)
    run.stopped += result.stopped
    if result.release is None:
        return False
    # as recorded, so that a finished study says it again
    provenance = result.release.provenance
    run.training_seconds += provenance["training_seconds"]
    if "pairs_across_documents" in provenance:
        run.pairs_across_documents[stage.name] = provenance["pairs_across_documents"]
    return True


def _finish(
    run: StudyRun,
    measure_all: Callable[[RunContext, Path], tuple[pd.DataFrame, list[Passage]]],
    out: Path,
    shared: ModelCache,
) -> None:
    """Measure the SAEs of all stages of the table; add rows and passages."""
    plan = run.plan
    stages = [stage.name for stage in plan.stages if stage.in_table]
    subjects = {s: subjects_of(str(out / "releases" / s)) for s in stages}
    context = RunContext(
        subjects=[subject for each in subjects.values() for subject in each],
        out=out / "results" / stages[0],
        corpus=plan.corpus,
        heldout_tokens=plan.heldout_tokens,
        dtype=plan.llm_dtype,
        device=plan.device,
        data=plan.data,
        models=shared,
    )
    frame, passages = measure_all(context, out)
    stage_of = {s.sae_id: name for name, each in subjects.items() for s in each}
    frame = frame.assign(stage=[stage_of[sae_id] for sae_id in frame["sae_id"]])
    run.frame = pd.concat([run.frame, frame], ignore_index=True)
    run.passages += passages


def _revive(
    run: StudyRun,
    revive: Revive,
    device: str,
    out: Path,
    shared: ModelCache,
    progress: Progress,
) -> bool:
    """Give dead latents back and add their gains; return False if it was interrupted."""
    releases = out / "releases"
    try:
        plan = plan_revival(
            releases / revive.stage,
            releases / revive.control,
            latents=revive.latents,
            steps=revive.steps,
            dead_after=revive.dead_after,
            device=device,
        )
    except NothingDeadError as error:
        progress(str(error))
        return True
    for group, reason in plan.skipped.items():
        progress(f"{group} is not revived: {reason}.")
    progress(f"Giving dead latents back to {len(plan.revivals)} groups.")
    folder = releases / REVIVED
    name = f"{run.study.name}-{run.scale}-{REVIVED}"
    result = run_revival(plan, folder, name=name, progress=progress)
    run.stopped += result.stopped
    if result.release is None:
        return False
    run.training_seconds += result.release.provenance["training_seconds"]
    context = RunContext(
        subjects=subjects_of(str(folder)),
        out=out / "results" / REVIVED,
        corpus=run.plan.corpus,
        heldout_tokens=run.plan.heldout_tokens,
        dtype=run.plan.llm_dtype,
        device=run.plan.device,
        models=shared,
    )
    found = compare(plan, context, loss_contexts=revive.loss_contexts)
    heading = "Dead latents given back, mean over seeds [95 % interval over contexts]:"
    run.passages.append(Passage(heading, points=list(found.verdicts.values())))
    gains = found.frame
    rows = gains.loc[gains["seed"].notna()]
    release = f"{run.study.name}-{run.scale}-{revive.stage}"
    own = frame_of_rows(
        {
            "release": release,
            "group": row["group"],
            "seed": int(row["seed"]),
            "sae_id": sae_id(row["group"], int(row["seed"])),
            "eval": "revival",
            "metric": f"figures/{row['figure']}",
            **{name: row[name] for name in ("value", "low", "high", "n")},
        }
        for row in rows.to_dict("records")
    ).assign(stage=revive.stage)
    run.frame = pd.concat([run.frame, own], ignore_index=True)
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
            name: {**plan.options.get(name, {}), **stage.options.get(name, {})}
            for name in stage.evals
        },
        models=shared,
    )
    frames: list[pd.DataFrame] = []
    if stage.evals:
        outcome = run_evals(stage.evals, context, resume=True, progress=progress)
        frames.append(outcome.frame)
        run.differences += outcome.differences
        run.failures += outcome.failures
    if plan.on_text:
        figures, failures = measure(context, out / _figures_file(stage))
        run.failures += failures
        frames.insert(0, figures)
    own = _in_order(pd.concat(frames, ignore_index=True), context.subjects)
    own = own.assign(stage=stage.name)
    run.frame = own if run.frame.empty else pd.concat([run.frame, own])
    run.frame = run.frame.reset_index(drop=True)
    if stage.choice is not None:
        found: Sequence[Choice] = stage.choice(run.frame)
        run.choices += found
    if stage.compare is not None:
        run.comparisons += stage.compare(context.out)


def _in_order(frame: pd.DataFrame, subjects: Sequence[Subject]) -> pd.DataFrame:
    """Return the rows by group, in the order in which groups were trained."""
    order = list(dict.fromkeys(subject.group for subject in subjects))
    place = {group: number for number, group in enumerate(order)}
    return frame.sort_values(
        "group", key=lambda names: names.map(place), kind="stable", ignore_index=True
    )


def _figures_file(stage: Stage) -> str:
    # outside the results folder, which has its own mark
    return f"figures/{stage.name}.json"


ACTIVATIONS = "activations"
REVIVED = "revived"
"""Release of a study's revived SAEs."""


def _require_sources(sweep: SweepConfig) -> None:
    """Fail within seconds if model or inputs cannot be had."""
    if kind_of_source(sweep) != LANGUAGE_MODEL:
        with_source(sweep)
        return
    models.ensure(sweep.model)
    corpora.ensure(sweep.corpus, "train")


def with_cache(
    sweep: SweepConfig, folder: Path, device: str, progress: Progress
) -> SweepConfig | None:
    """
    Return a sweep that reads the activations of its module from a cache below ``folder``.

    The cache is written at its first use: stages and epochs share it.

    Returns:
        None if the writing was interrupted; the same call resumes.
    """
    if kind_of_source(sweep) != "module":
        return sweep
    assert sweep.source is not None
    source = dict(sweep.source)
    path = folder / digest(source)[:16]
    if not (path / INDEX).is_file() or not read_index(path).is_finished:
        progress(f"Activations of {source['model']} on {source['data']}.")
        opened = open_source(source, device=device, dtype=sweep.llm_dtype)
        if not write_cache(opened, path).is_finished:
            return None
    return replace(sweep, source={"kind": "cache", "path": str(path.absolute())})
