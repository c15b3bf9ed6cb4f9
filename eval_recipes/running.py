"""Run evaluations over a release: check everything, run, collect."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

from eval_recipes.context import Failure, RunContext, Subject
from eval_recipes.differences import GroupDifference, load_group_differences
from eval_recipes.registry import Recipe, recipes
from eval_recipes.results import (
    check_unique_paths,
    keyed,
    load_results,
    read_result,
    result_files,
    result_path,
    write_summary,
)
from eval_recipes.resume import (
    Hashes,
    Todo,
    part_of,
    result_keys,
    subject_hashes,
    todo,
)
from saereg_plugin import corpora, models
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.files import require_writable
from saereg_plugin.hook_shapes import hook_shape
from saereg_plugin.release_hashes import verify_files
from saereg_plugin.release_opening import open_release

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run gave."""

    frame: pd.DataFrame
    differences: list[GroupDifference]
    failures: list[Failure]
    summary: Path


def subjects_of(
    release_name: str, *, patterns: Iterable[str] = (), group_by: str | None = None
) -> list[Subject]:
    """
    Return the SAEs of a release that match ``patterns``, their files checked.

    Raises:
        InputError: if release or SAE are unknown, or a file is missing or damaged.
    """
    release = open_release(release_name, group_by=group_by)
    entries = release.select(patterns)
    if not entries:
        raise InputError(f"Release {release.name!r} holds no SAE.")
    if release.folder is not None:
        for entry in entries:
            verify_files(release.folder, entry.path)
    return [Subject(release.name, e.sae_id, e.group, e.seed) for e in entries]


def run_evals(
    evals: Iterable[str],
    context: RunContext,
    *,
    resume: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """
    Run evaluations one after the other; a failed one does not stop the others.

    Writes ``summary.csv`` over everything in the results folder.

    Args:
        evals: names of evaluations.
        context: what to evaluate, on what, how.
        resume: keep results that a run of the same configuration has written, and redo
            only what is missing, damaged or made under another one
            (``eval_recipes.resume``). Otherwise everything is done again.
        progress: is told what a resumed run keeps.

    Raises:
        InputError: before anything is computed, if one of them cannot work.
    """
    chosen = recipes(evals)
    require_writable(context.out)
    check_unique_paths(context.subjects)
    for recipe in chosen:
        recipe.check(context)
    # a broken file of an earlier run is named now, not after hours; a resumed run
    # makes its own again
    _check_results(context, chosen if resume else ())
    check_sources(context, chosen)
    hashes = subject_hashes(context)
    failures: list[Failure] = []
    plans = [_plan(recipe, context, hashes, resume=resume) for recipe in chosen]
    for plan in plans:
        if plan.subjects:
            plan.recipe.check_server(context)
    wanted = {subject for plan in plans for subject in plan.subjects}
    left = [subject for subject in context.subjects if subject in wanted]
    # so that held-out figures are measured once, and of no SAE that needs none
    whole = context if left == context.subjects else replace(context, subjects=left)
    for plan in plans:
        if resume and progress is not None:
            progress(plan.text())
        if plan.subjects:
            part = part_of(whole, plan.subjects)
            keys = result_keys(plan.recipe, context, hashes)
            with keyed(keys):
                failures += _run_recipe(plan.recipe, part)
    return Outcome(
        frame=_of_this_run(load_results(context.out), context),
        differences=load_group_differences(
            context.out, {subject.release for subject in context.subjects}
        ),
        failures=failures,
        summary=write_summary(context.out),
    )


def _plan(recipe: Recipe, context: RunContext, hashes: Hashes, *, resume: bool) -> Todo:
    if resume:
        return todo(recipe, context, result_keys(recipe, context, hashes))
    return Todo(recipe, context.subjects, {}, len(context.subjects))


def _check_results(context: RunContext, chosen: Iterable[Recipe]) -> None:
    """Read every result in the folder but those that the chosen recipes will write."""
    own = {
        result_path(context.out, recipe.name, subject.release, subject.sae_id)
        for recipe in chosen
        for subject in context.subjects
    }
    for path in result_files(context.out):
        if path not in own:
            read_result(path)


def _run_recipe(recipe: Recipe, context: RunContext) -> list[Failure]:
    """
    Run one recipe; an error that it does not handle fails every SAE, not the others.

    What an earlier run left is removed at the end, if it was not written anew: a rerun that
    fails leaves no old result in its place, and one that is interrupted costs none.
    """
    paths = [
        result_path(context.out, recipe.name, subject.release, subject.sae_id)
        for subject in context.subjects
    ]
    before = {path: _written(path) for path in paths}
    try:
        failures = recipe.run(context)
    except Exception as error:
        logger.exception("Evaluation %s stopped", recipe.name)
        cause = f"{type(error).__name__}: {error}"
        failures = [
            Failure(recipe.name, subject.sae_id, cause) for subject in context.subjects
        ]
    for path in paths:
        if _written(path) == before[path]:
            path.unlink(missing_ok=True)
    return failures


def _written(path: Path) -> tuple[int, int] | None:
    """Return what another file of the same name has otherwise; None if there is none."""
    if not path.exists():
        return None
    state = path.stat()
    return state.st_ino, state.st_mtime_ns


def _of_this_run(frame: pd.DataFrame, context: RunContext) -> pd.DataFrame:
    """Return the rows of the SAEs that were evaluated; a folder may hold more."""
    evaluated = {(subject.release, subject.sae_id) for subject in context.subjects}
    mine = [key in evaluated for key in zip(frame["release"], frame["sae_id"])]
    return frame.loc[mine]


def check_sources(context: RunContext, chosen: Iterable[Recipe]) -> None:
    """
    Refuse SAEs whose model or hook is unknown or of another width; fetch what is missing.

    Only what one of the evaluations reads is looked at.

    Raises:
        InputError: naming the SAE.
    """
    models.torch_dtype(context.dtype)
    recipes = list(chosen)
    if any(recipe.reads_text for recipe in recipes):
        corpora.ensure(context.corpus, "heldout")
    if not any(recipe.reads_model for recipe in recipes):
        return
    checked: set[tuple[str, str, int]] = set()
    for subject in context.subjects:
        cfg = load_sae_config_from_huggingface(subject.release, subject.sae_id)
        metadata = cfg.get("metadata", cfg)
        source = (metadata.get("model_name"), metadata.get("hook_name"), cfg["d_in"])
        if source in checked or not all(source):
            continue
        model, hook, d_in = source
        width = hook_shape(model, hook, hook_head_index=metadata.get("hook_head_index"))
        if width != d_in:
            raise InputError(
                f"SAE {subject.sae_id!r} has d_in={d_in}, but {hook!r} of model {model!r} has "
                f"{width} dimensions."
            )
        checked.add(source)
        models.ensure(model)


def checked_data(data: str) -> Literal["hub", "embedded"]:
    """
    Return where labelled texts come from.

    Raises:
        InputError: for another word than "hub" or "embedded".
    """
    if data == "hub" or data == "embedded":
        return data
    raise InputError(f"Unknown data {data!r}. {suggest(data, ('hub', 'embedded'))}")


def checked_memory(gib: float) -> float:
    """
    Return the bound on memory.

    Raises:
        InputError: if it is not above 0 or not finite.
    """
    if not (math.isfinite(gib) and gib > 0):
        raise InputError(
            f"The memory bound is {gib} GiB; expected a finite number above 0."
        )
    return gib
