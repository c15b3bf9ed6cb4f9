"""Results whose replacement failed, listed in their folder."""

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
from saereg_plugin.owned_folder import folder_lock

FILE = "outdated.json"
"""File in a results folder that lists its outdated results."""

DAGGER = "†"
"""Mark of an outdated result in tables and plots."""
FOOTNOTE = f"{DAGGER} outdated: the run that should have replaced a result failed."
_REMEDY = "It lists results whose last attempt failed. Delete it if you know that there are none."


@dataclass(frozen=True)
class Attempt:
    """
    The last, failed attempt to replace a result.

    Attributes:
        eval_id: id of the result that stayed; None if it cannot be read.
        cause: why the attempt failed.
        date: time in UTC.
    """

    eval_id: str | None
    cause: str
    date: str


def outdated_results(folder: Path) -> dict[Path, Attempt]:
    """
    Return the outdated results in a folder; those replaced since are left out.

    Raises:
        InputError: if the list is damaged.
    """
    return {
        folder / name: attempt
        for name, attempt in _read(folder).items()
        if (folder / name).is_file() and _eval_id(folder / name) == attempt.eval_id
    }


def are_outdated(frame: pd.DataFrame, folder: Path) -> list[bool]:
    """Return for each row of a folder's tidy table whether its result is outdated."""
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
    Update the list after an evaluation.

    ``failed`` results stayed, each with why its successor failed; ``current`` results are of the
    requested configuration.

    Raises:
        InputError: if the list is damaged.
    """
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    gone = {path.relative_to(folder).as_posix() for path in current}
    with folder_lock(folder):
        before = _read(folder)
        kept = {name: attempt for name, attempt in before.items() if name not in gone}
        after = kept | {
            path.relative_to(folder).as_posix(): Attempt(_eval_id(path), cause, date)
            for path, cause in failed.items()
        }
        if after != before:
            entries = {name: asdict(attempt) for name, attempt in sorted(after.items())}
            write_json(folder / FILE, entries)


def outdated_notes(folder: Path) -> list[str]:
    """Return one line for each outdated result: its path, date and cause."""
    return [
        one_line(
            f"{path.relative_to(folder)} is of an earlier run: the attempt of {attempt.date} "
            f"failed ({attempt.cause}). Run it again."
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
        # a damaged result has none; readers of the folder report it
        return None
