"""Folder of a run's results, and the files that belong to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from eval_recipes.results.files import SUMMARY, result_name
from eval_recipes.results.outdated import FILE as OUTDATED
from eval_recipes.results.reading import SUFFIX
from eval_recipes.results.subject import Subject
from saereg_plugin.errors import InputError
from saereg_plugin.files import recover
from saereg_plugin.owned_folder import MARK, OwnedFolder, folder_lock, open_owned

logger = logging.getLogger(__name__)

KIND = "results"
"""Kind of a results folder in its mark."""


class Writer(Protocol):
    """What is asked of an evaluation about its files."""

    @property
    def name(self) -> str:
        """Folder of its results."""
        ...

    @property
    def side_files(self) -> tuple[str, ...]:
        """Endings of the files next to each result."""
        ...

    @property
    def folder_files(self) -> tuple[str, ...]:
        """Names of the files over all results."""
        ...


def check_names(
    out: Path, chosen: Sequence[Writer], subjects: Sequence[Subject]
) -> None:
    """
    Refuse files of the user's with names that a run will write; writes nothing.

    Raises:
        InputError: naming the file.
    """
    if (out / MARK).is_file():
        names = [*_shared_names(chosen), *_own_names(chosen, subjects)]
        OwnedFolder(out, KIND).require_free(names)


@contextmanager
def claimed_results(
    out: Path, chosen: Sequence[Writer], subjects: Sequence[Subject]
) -> Iterator[None]:
    """
    Make a folder that of a run, and all that the run writes there ours.

    What a killed run left half-written under the same names is removed. Names that the run
    ends without writing, in whatever way it ends, are ours no longer; those that all runs write stay. Other runs may work in
    the folder, on other SAEs; what all of them write is written under the folder's lock.

    Raises:
        InputError: see ``open_owned`` and ``OwnedFolder.claim``.
    """
    folder = open_owned(out, KIND)
    shared, own = _shared_names(chosen), _own_names(chosen, subjects)
    new = folder.claim([*shared, *own]) & frozenset(own)
    try:
        for name in own:
            recover(out / name)
        with folder_lock(out):
            for name in shared:
                recover(out / name)
        yield
    except BaseException:
        try:
            folder.settle(own, new=new)
        except (OSError, InputError) as error:
            # what ended the run says more
            logger.warning("The list of files of %s is not current: %s", out, error)
        raise
    folder.settle(own, new=new)


def _own_names(chosen: Sequence[Writer], subjects: Sequence[Subject]) -> list[str]:
    """Return the files that only a run of these SAEs writes."""
    return [
        f"{evaluation.name}/{_stem(subject)}{end}"
        for evaluation in chosen
        for subject in subjects
        for end in (SUFFIX, *evaluation.side_files)
    ]


def _shared_names(chosen: Sequence[Writer]) -> list[str]:
    """Return the files that every run in the folder writes."""
    own = [
        f"{evaluation.name}/{name}"
        for evaluation in chosen
        for name in evaluation.folder_files
    ]
    return [SUMMARY, OUTDATED, *own]


def own_folder(results: Path) -> OwnedFolder | None:
    """Return a results folder with our mark, None for one without, such as SAEBench's own."""
    return open_owned(results, KIND) if (results / MARK).is_file() else None


def _stem(subject: Subject) -> str:
    return result_name(subject.release, subject.sae_id).removesuffix(SUFFIX)
