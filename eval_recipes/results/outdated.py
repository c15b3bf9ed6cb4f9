"""Results that stay because the attempt to replace them failed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.results.reading import read_result
from eval_recipes.results.tidy import one_line
from saereg_plugin.errors import InputError
from saereg_plugin.files import read_json, write_json
from saereg_plugin.folder_mark import folder_lock

FILE = "outdated.json"
"""File in a results folder that lists its outdated results."""

DAGGER = "†"
"""Mark of an outdated result in tables and plots."""
FOOTNOTE = f"{DAGGER} outdated: the run that should have replaced a result failed."
_REMEDY = "It lists results whose last attempt failed. Delete it if you know that there are none."


@dataclass(frozen=True)
class Attempt:
    """
    The last attempt to replace a result, which failed.

    Attributes:
        eval_id: of the result that stayed; None if that one cannot be read.
        cause: why the attempt failed.
        date: when, UTC.
    """

    eval_id: str | None
    cause: str
    date: str


def outdated_results(folder: Path) -> dict[Path, Attempt]:
    """
    Return the outdated results in a results folder; a successor makes an entry void.

    Raises:
        InputError: if the list is damaged.
    """
    return {
        folder / name: attempt
        for name, attempt in _read(folder).items()
        if (folder / name).is_file() and _eval_id(folder / name) == attempt.eval_id
    }


def are_outdated(frame: pd.DataFrame, folder: Path) -> list[bool]:
    """Say of each row of a folder's tidy table whether it is of an outdated result."""
    records = [
        read_result(path)
        for path, attempt in outdated_results(folder).items()
        if attempt.eval_id is not None
    ]
    names = ("sae_lens_release_id", "sae_lens_id", "eval_type_id")
    found = {tuple(one_line(record.get(name)) for name in names) for record in records}
    rows = zip(frame["release"], frame["sae_id"], frame["eval"])
    return [row in found for row in rows]


def note_attempts(
    folder: Path, *, failed: Mapping[Path, str], current: Collection[Path]
) -> None:
    """
    Bring the list up to date after an evaluation.

    Args:
        folder: the results folder.
        failed: results that stayed, and why their successors failed.
        current: results that are of the configuration that was asked for.

    Raises:
        InputError: if the list is damaged.
    """
    with folder_lock(folder):
        _note(folder, failed, current)


def _note(folder: Path, failed: Mapping[Path, str], current: Collection[Path]) -> None:
    before = _read(folder)
    gone = {path.relative_to(folder).as_posix() for path in current}
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    added = {
        path.relative_to(folder).as_posix(): Attempt(_eval_id(path), cause, date)
        for path, cause in failed.items()
    }
    after = {
        name: attempt for name, attempt in before.items() if name not in gone
    } | added
    if after != before:
        entries = {name: asdict(attempt) for name, attempt in sorted(after.items())}
        write_json(folder / FILE, entries)


def outdated_notes(folder: Path) -> list[str]:
    """Return one line for each outdated result: which, since when, why."""
    return [
        one_line(
            f"{path.relative_to(folder)} is of an earlier run: the attempt of {attempt.date} "
            f"failed ({attempt.cause}). Run it again with --resume."
        )
        or ""
        for path, attempt in sorted(outdated_results(folder).items())
    ]


def _read(folder: Path) -> dict[str, Attempt]:
    path = folder / FILE
    if not path.is_file():
        return {}
    entries: Any = read_json(path, remedy=_REMEDY)
    try:
        return {str(name): Attempt(**entry) for name, entry in entries.items()}
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"File {str(path)!r} is damaged ({error}). {_REMEDY}"
        ) from error


def _eval_id(path: Path) -> str | None:
    try:
        return str(read_result(path).get("eval_id"))
    except InputError:
        # a damaged result has none; whoever reads the folder is told
        return None
