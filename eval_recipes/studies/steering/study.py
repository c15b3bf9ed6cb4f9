"""Steering with regularised and unregularised SAEs: the comparison of arXiv 2603.04198."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval_recipes.chat import Budget, read_key
from eval_recipes.report.page import write_report
from eval_recipes.results.reading import result_files
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.artifacts import default_artifacts, open_artifacts
from eval_recipes.running.context import ModelCache, RunContext
from eval_recipes.running.run import run_evals
from eval_recipes.steering.options import make_config, uses_chat
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
from saereg_plugin.releases.opening import open_release
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
    Run the study into ``out`` and write its report there; an interrupted study resumes.

    ``out/release`` holds the SAEs if they are trained here, ``out/results/stability`` the
    cross-seed results, ``out/results/<run>`` those of each way of steering, ``out/table.md`` the
    report, and ``report.html`` next to the results of each way the page about them. All runs share one budget of the chat model.

    ``artifacts`` is kept between runs, by default in the user's cache; ``progress`` is called with a
    line on each next step and each failure.

    Raises:
        InputError: before anything is loaded, if groups, text or options cannot be used, or
            the folder holds the user's files, is not writable, in use, or of another study.
    """
    with study_folder(out, NAME, study.scale, files=FILES):
        _check(study)
        artifacts = artifacts or default_artifacts()
        open_artifacts(artifacts)
        mark_folder(out, NAME, study.scale)
        outcome = SteeringOutcome(study)
        _Work(study, out, artifacts, progress, outcome).run()
        if outcome.finished:
            # before another process may change what it reports on
            outcome.table = write_steering_report(outcome, out)
            outcome.pages += _write_pages(outcome, out)
        return outcome


def _write_pages(outcome: SteeringOutcome, out: Path) -> list[Path]:
    """Write a report page into each folder of results, except those of the grid's runs."""
    names = {release for saes in outcome.saes.values() for release, _ in saes}
    releases = [one for one in map(open_release, sorted(names)) if one.has_manifest]
    folders = {
        run.name: out / "results" / run.name for run in outcome.runs if not run.grid
    }
    return [
        write_report(
            folder,
            release=releases,
            failures=outcome.by_run.get(name, ()),
        )
        for name, folder in folders.items()
        if folder.is_dir() and result_files(folder)
    ]


@dataclass(frozen=True)
class _Work:
    """One call of the study, which fills ``outcome``."""

    study: SteeringStudy
    out: Path
    artifacts: Path
    progress: Progress
    outcome: SteeringOutcome

    def run(self) -> None:
        study, outcome = self.study, self.outcome
        name = self._trained() if study.release is None else study.release
        if name is None:
            return
        subjects = subjects_of_groups(name, study)
        runs = runs_of(
            study, model_of(subjects[0]), grid_seed=grid_seed(study, subjects)
        )
        outcome.runs += runs
        stability = self._stability(subjects)
        shared = ModelCache()
        # one budget of the chat model over all runs, from the options that they share
        config = make_config(dict(study.settings))
        budget = Budget(config.judge_max_calls, config.judge_max_tokens)
        for number, run in enumerate(runs, start=1):
            self.progress(f"Run {number} of {len(runs)}: {run.name}.")
            chosen = [
                subject
                for subject in subjects
                if run.seeds is None or subject.seed in run.seeds
            ]
            saes = frozenset((one.release, one.sae_id) for one in chosen)
            outcome.saes[run.name] = saes
            context = self._context(chosen, run.name, shared)
            context.judge_budget = budget
            options = {**study.settings, **run.options, **stability}
            outcome.by_run[run.name] = self._evaluate("steering", options, context)
        outcome.finished = True

    def _trained(self) -> str | None:
        """Train the SAEs; return their release, or None if there is nothing to steer with."""
        study, outcome = self.study, self.outcome
        self.progress("Training the SAEs.")
        result = run_sweep(
            replace(sweep_of(study.scale), device=study.device),
            self.out / "release",
            name=f"steering-{study.scale}",
            progress=self.progress,
        )
        lost = [] if result.release is None else lost_groups(study, result.release)
        stopped = [
            *result.stopped,
            *(f"every SAE of group {g!r}, so nothing was steered" for g in lost),
        ]
        outcome.stopped += stopped
        for line in stopped:
            self.progress(f"Stopped in training: {line}")
        outcome.finished = bool(lost)
        return None if result.release is None or lost else str(self.out / "release")

    def _stability(self, subjects: list[Subject]) -> dict[str, str]:
        """Measure which latents other seeds share; return the option that names the results."""
        seeds = [
            {s.seed for s in subjects if s.group == group}
            for group in (self.study.group, self.study.baseline)
        ]
        if any(len(found) < 2 or None in found for found in seeds):
            self.progress("A group has a single seed: stability is not measured.")
            return {}
        # a cache of its own: steering loads another kind of model
        context = self._context(subjects, "stability", ModelCache())
        options = {"reconstruction_shares": False}
        failures = self._evaluate("cross_seed", options, context)
        return {} if failures else {"stability": str(context.out)}

    def _evaluate(
        self, eval: str, options: dict[str, Any], context: RunContext
    ) -> list[Failure]:
        context.options = {eval: options}
        failures = run_evals(
            [eval], context, resume=True, progress=self.progress
        ).failures
        for failure in failures:
            self.progress(f"failed {failure.eval} of {failure.sae_id}: {failure.cause}")
        self.outcome.failures += failures
        return failures

    def _context(
        self, subjects: list[Subject], name: str, shared: ModelCache
    ) -> RunContext:
        study, paper = self.study, self.study.scale == "paper"
        corpus = "monology/pile-uncopyrighted" if paper else "embedded"
        return RunContext(
            subjects=subjects,
            out=self.out / "results" / name,
            corpus=study.corpus or corpus,
            heldout_tokens=study.heldout_tokens,
            dtype=_dtype(study),
            device=machine.resolve_device(study.device),
            data="hub" if paper else "embedded",
            artifacts=self.artifacts,
            models=shared,
        )


def _dtype(study: SteeringStudy) -> str:
    return (
        machine.fast_dtype(machine.resolve_device(study.device))
        if study.dtype == "auto"
        else study.dtype
    )


def _check(study: SteeringStudy) -> None:
    """
    Refuse what no run could be done with, before anything is trained.

    Raises:
        InputError: for a device or groups that are not there, options, or a missing key.
    """
    machine.resolve_device(study.device)
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
            config.judge_config(seed=0)
            read_key()
