"""Run evaluations over a release: check everything, run, collect."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.registry import evaluation_names, load_evaluation
from eval_recipes.results.differences import (
    GroupDifference,
    differences_frame,
    load_group_differences,
    minus_plain,
    plain_groups,
)
from eval_recipes.results.files import (
    check_unique_paths,
    keyed,
    load_results,
    read_result,
    read_results,
    result_path,
    write_summary,
)
from eval_recipes.results.folder import KIND, check_names, claimed_results
from eval_recipes.results.headlines import headline_frame
from eval_recipes.results.outdated import Attempt, note_attempts, outdated_results
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.results.tidy import one_line
from eval_recipes.running.artifacts import check_artifacts, open_artifacts
from eval_recipes.running.check import (
    check_any_source,
    check_configurations,
    check_settings,
    check_sources,
)
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation
from eval_recipes.running.plan import (
    Hashes,
    Todo,
    kept_lines,
    result_keys,
    subject_hashes,
    todo,
)
from saereg_plugin.errors import InputError
from saereg_plugin.files import writing_into
from saereg_plugin.html import html_block
from saereg_plugin.owned_folder import require_owned
from saereg_plugin.releases.opening import open_release, require_files
from saereg_plugin.releases.release import Release

logger = logging.getLogger(__name__)

_NO_ROOM = "What was written before is still there. Make room and run it again."


@dataclass(frozen=True)
class Outcome:
    """
    What a run gave.

    Attributes:
        frame: tidy results of the run's SAEs; outdated ones are not in it.
        differences: between groups, likewise.
        failures: evaluations of SAEs that gave no result.
        summary: the table of everything in the folder.
        kept: results that a resumed run found current.
        outdated: earlier results in the folder whose successors failed.
    """

    frame: pd.DataFrame
    differences: list[GroupDifference]
    failures: list[Failure]
    summary: Path
    kept: int = 0
    outdated: dict[Path, Attempt] = field(default_factory=lambda: {})

    def _repr_html_(self) -> str:
        count = self.frame["sae_id"].nunique()
        failures = [(f.eval, f.sae_id, f.cause) for f in self.failures]
        return html_block(
            f"Results of {count} SAEs",
            headline_frame(self.frame),
            differences_frame(self.differences),
            pd.DataFrame(failures, columns=pd.Index(["failed", "sae_id", "cause"])),
            f"All figures: {self.summary}",
        )


def subjects_of(
    release_name: str | Path | Release,
    *,
    patterns: Iterable[str] = (),
    group_by: str | None = None,
    allow_pickle: bool = False,
) -> list[Subject]:
    """
    Return the SAEs of a release that match ``patterns``, their files fetched and checked.

    A release in a folder is opened again: its name may be that of another one meanwhile.
    ``group_by`` and ``allow_pickle`` are those of ``open_release``.

    Raises:
        InputError: if release or SAE are unknown, or a file is missing or damaged.
    """
    release = _opened(release_name, group_by, allow_pickle=allow_pickle)
    entries = release.select(patterns)
    if not entries:
        raise InputError(
            f"Release {release.name!r} holds no SAE; expected one or more. Train it again, or "
            "name another release."
        )
    require_files(release, [entry.path for entry in entries])
    return [Subject(release.name, e.sae_id, e.group, e.seed) for e in entries]


def _opened(
    release: str | Path | Release, group_by: str | None, *, allow_pickle: bool
) -> Release:
    if isinstance(release, Release):
        if release.folder is None and group_by is None:
            return release
        release = release.folder or release.name
    return open_release(release, group_by=group_by, allow_pickle=allow_pickle)


def run_evals(
    evals: Iterable[str],
    context: RunContext,
    *,
    resume: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """
    Run evaluations one after the other; a failed one does not stop the others.

    An earlier result stays until its successor takes its place, and for good if its SAE
    fails: then it is listed in ``outdated.json``. Writes ``summary.csv`` over everything in the
    results folder.

    Args:
        evals: names of evaluations.
        context: what to evaluate, on what, how.
        resume: keep results that a run of the same configuration has written, and redo
            only what is missing, damaged or made under another one
            (``eval_recipes.running.plan``). Otherwise everything is done again.
        progress: is told what a resumed run keeps.

    Raises:
        InputError: before anything is computed, if one of them cannot work.
        WriteError: if the disk is full; results that were written stay.
    """
    chosen = [load_evaluation(name) for name in evaluation_names(evals)]
    check_settings(context)
    require_owned(context.out, KIND)
    check_artifacts(context.artifacts)
    check_unique_paths(context.subjects)
    check_any_source(context, chosen)
    for evaluation in chosen:
        evaluation.check(context, evaluation.options(context))
    check_configurations(context, chosen)
    check_names(context.out, chosen, context.subjects)
    # a broken file of an earlier run is named now, not after hours; a resumed run
    # makes its own again
    _check_results(context, chosen, resume=resume)
    check_sources(context, chosen)
    hashes = subject_hashes(context)
    plans = [_plan(evaluation, context, hashes, resume=resume) for evaluation in chosen]
    for plan in plans:
        if plan.subjects:
            options = plan.evaluation.options(context)
            plan.evaluation.check_server(context, options)
    with (
        writing_into(context.out, remedy=_NO_ROOM),
        claimed_results(context.out, chosen, context.subjects),
    ):
        if any(evaluation.keeps_artifacts for evaluation in chosen):
            open_artifacts(context.artifacts)
        if resume and progress is not None:
            for line in kept_lines(plans):
                progress(line)
        return _run(plans, context, hashes)


def _run(plans: Sequence[Todo], context: RunContext, hashes: Hashes) -> Outcome:
    failures: list[Failure] = []
    wanted = {subject for plan in plans for subject in plan.subjects}
    left = [subject for subject in context.subjects if subject in wanted]
    # so that held-out figures are measured once, and of no SAE that needs none
    whole = context if left == context.subjects else replace(context, subjects=left)
    for plan in plans:
        note_attempts(context.out, failed={}, current=plan.kept_paths(context))
        if plan.subjects:
            part = whole.part(plan.subjects)
            failures += _run_evaluation(plan.evaluation, part, context, hashes)
    return _outcome(context, failures, kept=sum(plan.kept for plan in plans))


def _outcome(context: RunContext, failures: list[Failure], *, kept: int) -> Outcome:
    outdated = outdated_results(context.out)
    # such a result can be no part of any table
    damaged = {path for path, attempt in outdated.items() if attempt.eval_id is None}
    frame = _of_this_run(load_results(context.out, without=outdated), context)
    differences = load_group_differences(
        context.out,
        {subject.release for subject in context.subjects},
        without=outdated,
    )
    return Outcome(
        frame=frame,
        differences=minus_plain(differences, plain_groups(frame)),
        failures=failures,
        summary=write_summary(context.out, without=damaged),
        kept=kept,
        outdated=outdated,
    )


def _plan(
    evaluation: Evaluation[Any], context: RunContext, hashes: Hashes, *, resume: bool
) -> Todo:
    if resume:
        return todo(evaluation, context, result_keys(evaluation, context, hashes))
    return Todo(evaluation, context.subjects, {}, len(context.subjects))


def _check_results(
    context: RunContext, chosen: Sequence[Evaluation[Any]], *, resume: bool
) -> None:
    """
    Read every result in the folder; a resumed run's own may be broken.

    Raises:
        InputError: if a file is broken, or holds a result that the run would write elsewhere.
    """
    own = {
        (evaluation.eval_type_id, subject.release, subject.sae_id): result_path(
            context.out, evaluation.name, subject.release, subject.sae_id
        )
        for evaluation in chosen
        for subject in context.subjects
    }
    paths = set(own.values())
    if not context.out.exists():
        return
    for path, record in read_results(context.out, without=paths):
        target = own.get(
            (
                record["eval_type_id"],
                record.get("sae_lens_release_id") or "",
                record.get("sae_lens_id") or "",
            )
        )
        if target is not None:
            raise InputError(
                f"File {str(path)!r} holds a result that this run writes into "
                f"{str(target)!r}; expected one result of an SAE in a folder. Move the "
                "file away, or choose another --out."
            )
    if not resume:
        for path in filter(Path.exists, paths):
            read_result(path)


def _run_evaluation(
    evaluation: Evaluation[Any], context: RunContext, whole: RunContext, hashes: Hashes
) -> list[Failure]:
    """
    Run one evaluation; an error that it does not handle fails every SAE, not the others.

    An earlier result stays until its successor takes its place. Those whose SAE failed are
    recorded as outdated.
    """
    paths = {
        result_path(
            context.out, evaluation.name, subject.release, subject.sae_id
        ): subject
        for subject in context.subjects
    }
    before = {path: _written(path) for path in paths}
    try:
        with keyed(result_keys(evaluation, whole, hashes)):
            failures = evaluation.evaluate_all(context, evaluation.options(context))
    except Exception as error:
        # an input error says all there is to say
        trace = not isinstance(error, InputError)
        logger.error("Evaluation %s stopped", evaluation.name, exc_info=trace)
        failures = [evaluation.failure(subject, error) for subject in context.subjects]
    stayed = [path for path in paths if _written(path) == before[path]]
    causes = {failure.sae_id: failure.cause for failure in failures}
    note_attempts(
        context.out,
        failed={
            path: causes.get(paths[path].sae_id, "it wrote no result")
            for path in stayed
            if path.exists()
        },
        current=set(paths) - set(stayed),
    )
    return failures


def _written(path: Path) -> tuple[int, int] | None:
    """Return what another file of the same name has otherwise; None if there is none."""
    if not path.exists():
        return None
    state = path.stat()
    return state.st_ino, state.st_mtime_ns


def _of_this_run(frame: pd.DataFrame, context: RunContext) -> pd.DataFrame:
    """Return the rows of the SAEs that were evaluated; a folder may hold more."""
    evaluated = {
        (one_line(subject.release), one_line(subject.sae_id))
        for subject in context.subjects
    }
    mine = [key in evaluated for key in zip(frame["release"], frame["sae_id"])]
    return frame.loc[mine]
