"""Steering with regularised and unregularised SAEs: the comparison of arXiv 2603.04198."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from eval_recipes.chat import Budget, read_key
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.artifacts import default_artifacts, open_artifacts
from eval_recipes.running.context import RunContext
from eval_recipes.running.model_cache import ModelCache
from eval_recipes.running.run import run_evals
from eval_recipes.steering.check import judge_settings
from eval_recipes.steering.options import make_config, uses_chat
from eval_recipes.studies.framework.definition import device
from eval_recipes.studies.framework.study_folder import mark_folder, study_folder
from eval_recipes.studies.steering.report import FILES, write_steering_report
from eval_recipes.studies.steering.runs import (
    SteeringOutcome,
    SteeringStudy,
    grid_seed,
    lost_groups,
    model_of,
    runs_of,
    subjects_of_groups,
    sweep_of,
)
from saereg_plugin import machine
from saereg_plugin.errors import InputError
from saereg_plugin.sweeps import run_sweep

Progress = Callable[[str], None]

NAME = "steering"


def run_steering_study(
    study: SteeringStudy,
    out: Path,
    *,
    artifacts: Path | None = None,
    progress: Progress = lambda _: None,
) -> SteeringOutcome:
    """
    Run the study into ``out`` and write its report there; an interrupted one goes on, and asks
    nothing twice.

    ``out/release`` holds the SAEs if they are trained here, ``out/results/stability`` the
    cross-seed results, ``out/results/<run>`` those of each way of steering, ``out/table.md`` the
    report. All runs share one budget of the chat model.

    Args:
        study: what is run.
        out: folder of this study.
        artifacts: what is kept between runs; by default in the user's cache.
        progress: is told what is done next, and what failed.

    Raises:
        InputError: before anything is loaded, if groups, text or options cannot be used, or
            the folder holds the user's files, is not writable, in use, or of another study.
    """
    with study_folder(out, NAME, study.scale, files=FILES):
        _check(study)
        open_artifacts(artifacts or default_artifacts())
        mark_folder(out, NAME, study.scale)
        outcome = _run(study, out, artifacts, progress)
        if outcome.finished:
            # before another process may change what it reports on
            outcome.table = write_steering_report(outcome, out)
        return outcome


def _run(
    study: SteeringStudy, out: Path, artifacts: Path | None, progress: Progress
) -> SteeringOutcome:
    outcome = SteeringOutcome(study)
    name = study.release
    if name is None:
        progress("Training the SAEs.")
        result = run_sweep(
            sweep_of(study.scale),
            out / "release",
            name=f"steering-{study.scale}",
            progress=progress,
        )
        outcome.stopped += result.stopped
        for line in result.stopped:
            progress(f"Stopped in training: {line}")
        if result.release is None:
            return outcome
        lost = lost_groups(study, result.release)
        for group in lost:
            line = f"every SAE of group {group!r}, so nothing was steered"
            outcome.stopped.append(line)
            progress(f"Stopped in training: {line}")
        if lost:
            outcome.finished = True
            return outcome
        name = str(out / "release")
    subjects = subjects_of_groups(name, study)
    runs = runs_of(study, model_of(subjects[0]), grid_seed=grid_seed(study, subjects))
    outcome.runs += runs
    # a cache of its own: steering loads another kind of model
    stability = _stability(
        study, subjects, out, ModelCache(), artifacts, progress, outcome
    )
    shared = ModelCache()
    budget = _budget(study)
    for number, run in enumerate(runs, start=1):
        progress(f"Run {number} of {len(runs)}: {run.name}.")
        chosen = [
            subject
            for subject in subjects
            if run.seeds is None or subject.seed in run.seeds
        ]
        outcome.saes[run.name] = frozenset((one.release, one.sae_id) for one in chosen)
        context = _context(study, chosen, out / "results" / run.name, shared, artifacts)
        context.options = {"steering": {**study.settings, **run.options, **stability}}
        context.judge_budget = budget
        found = run_evals(["steering"], context, resume=True, progress=progress)
        _tell(found.failures, progress)
        outcome.failures += found.failures
        outcome.by_run[run.name] = found.failures
    outcome.finished = True
    return outcome


def _budget(study: SteeringStudy) -> Budget:
    """Return the chat model's budget over all runs, from the options that they share."""
    config = make_config(dict(study.settings))
    return Budget(config.judge_max_calls, config.judge_max_tokens)


def _tell(failures: Sequence[Failure], progress: Progress) -> None:
    for failure in failures:
        progress(f"failed {failure.eval} of {failure.sae_id}: {failure.cause}")


def _check(study: SteeringStudy) -> None:
    """
    Refuse what no run could be done with, before anything is trained.

    Raises:
        InputError: for groups that are not there, options, or a missing key.
    """
    if study.release is not None:
        model = model_of(subjects_of_groups(study.release, study)[0])
    else:
        sweep = sweep_of(study.scale)
        model = sweep.model
        for wanted in (study.group, study.baseline):
            if wanted not in sweep.groups:
                raise InputError(
                    f"The study trains no group {wanted!r}, but "
                    f"{', '.join(map(repr, sweep.groups))}; expected one of these. Name other "
                    "groups with a release of your own (--sae-release)."
                )
    if study.group == study.baseline:
        raise InputError(
            f"Both groups are {study.group!r}; expected two different ones."
        )
    machine.torch_dtype(_dtype(study))
    for run in runs_of(study, model):
        config = make_config({**study.settings, **run.options})
        if uses_chat(config):
            judge_settings(config, seed=0)
            read_key()


def _stability(
    study: SteeringStudy,
    subjects: Sequence[Subject],
    out: Path,
    shared: ModelCache,
    artifacts: Path | None,
    progress: Progress,
    outcome: SteeringOutcome,
) -> dict[str, str]:
    """Measure which latents other seeds share; return the option that names the results."""
    seeds = {
        group: {s.seed for s in subjects if s.group == group}
        for group in (study.group, study.baseline)
    }
    if any(len(found) < 2 or None in found for found in seeds.values()):
        progress("A group has a single seed: stability is not measured.")
        return {}
    folder = out / "results" / "stability"
    context = _context(study, list(subjects), folder, shared, artifacts)
    context.options = {"cross_seed": {"reconstruction_shares": False}}
    found = run_evals(["cross_seed"], context, resume=True, progress=progress)
    _tell(found.failures, progress)
    outcome.failures += found.failures
    return {} if found.failures else {"stability": str(folder)}


def _dtype(study: SteeringStudy) -> str:
    where = device() if study.scale == "paper" else "cpu"
    return machine.fast_dtype(where) if study.dtype == "auto" else study.dtype


def _context(
    study: SteeringStudy,
    subjects: list[Subject],
    out: Path,
    shared: ModelCache,
    artifacts: Path | None,
) -> RunContext:
    paper = study.scale == "paper"
    return RunContext(
        subjects=subjects,
        out=out,
        corpus=study.corpus or ("monology/pile-uncopyrighted" if paper else "embedded"),
        heldout_tokens=study.heldout_tokens,
        dtype=_dtype(study),
        device=device() if paper else "cpu",
        data="hub" if paper else "embedded",
        artifacts=artifacts or default_artifacts(),
        models=shared,
    )
