"""The folder of a run's results, and which files it holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from eval_recipes.context import Subject
from eval_recipes.outdated import FILE as OUTDATED
from eval_recipes.registry import Recipe
from eval_recipes.result_files import SUFFIX
from eval_recipes.results import SUMMARY, result_name
from saereg_plugin.files import recover
from saereg_plugin.owned_folder import MARK, OwnedFolder, folder_lock, open_owned

KIND = "results"
"""Kind of a results folder in its mark."""


def claim_results(
    out: Path, chosen: Iterable[Recipe], subjects: Sequence[Subject]
) -> OwnedFolder:
    """
    Make a folder that of a run, and all that the run will write there ours.

    What a killed run left half-written under the same names is removed. Other runs may work
    in the folder, on other SAEs; what all of them write is written under the folder's lock.

    Raises:
        InputError: see ``open_owned`` and ``OwnedFolder.claim``.
    """
    folder = open_owned(out, KIND)
    shared, own = [SUMMARY, OUTDATED], list[str]()
    for recipe in chosen:
        endings = (SUFFIX, *recipe.side_files)
        stems = [_stem(subject) for subject in subjects]
        own += [f"{recipe.name}/{stem}{end}" for stem in stems for end in endings]
        shared += [f"{recipe.name}/{name}" for name in recipe.folder_files]
    folder.claim([*shared, *own])
    for name in own:
        recover(out / name)
    with folder_lock(out):
        for name in shared:
            recover(out / name)
    return folder


def own_folder(results: Path) -> OwnedFolder | None:
    """Return a results folder with our mark, None for one without, such as SAEBench's own."""
    return open_owned(results, KIND) if (results / MARK).is_file() else None


def _stem(subject: Subject) -> str:
    return result_name(subject.release, subject.sae_id).removesuffix(SUFFIX)
