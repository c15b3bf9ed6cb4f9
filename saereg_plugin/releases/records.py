"""Reader of a release's training records, one file per SAE."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from saereg_plugin.errors import InputError, suggest_path

RECORDS = "records"
"""Folder of the training records in a release folder."""

_log = logging.getLogger(__name__)


def load_records(folder: str | Path) -> pd.DataFrame:
    """
    Return the training records of a release folder, one row for each SAE and recorded step.

    Columns are ``sae_id``, ``step``, ``tokens``, ``loss``, each part of it, and what else was
    logged (``docs/file-formats.md``); a figure that an SAE does not have is NaN. Figures are of
    one batch each. The last row of an SAE that was taken out has its ``reason``. Example::

        records = sr.load_records("my-release")
        records.pivot(index="step", columns="sae_id", values="explained_variance").plot()

    Raises:
        InputError: if the folder has no records, or a line of them is no JSON.
    """
    frames: list[pd.DataFrame] = []
    root = Path(folder, RECORDS)
    for path in sorted(root.rglob("*.jsonl")):
        rows = pd.DataFrame(_read_record(path))
        sae_id = path.relative_to(root).as_posix().removesuffix(".jsonl")
        rows.insert(0, "sae_id", sae_id)
        frames.append(rows)
    if not frames:
        raise InputError(
            f"Folder {str(folder)!r} has no training records ({RECORDS}/*.jsonl); expected a "
            "release folder that 'saereg-bench train' or sr.train wrote. "
            f"{'' if Path(folder).is_dir() else suggest_path(folder)}".rstrip()
        )
    return pd.concat(frames, ignore_index=True)


def _read_record(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a record file; refuse one that is no JSON object."""
    content = path.read_bytes()
    damaged = damaged_line(content)
    if damaged is not None:
        raise InputError(
            f"Training record {str(path)!r} is damaged: line {damaged} is no JSON. Remove that "
            "line, or restore the file from a copy."
        )
    return [json.loads(line) for line in content.splitlines()]


def last_records(folder: Path, sae_ids: Iterable[str]) -> pd.DataFrame:
    """
    Return loss, explained variance and L0 of SAEs in their last recorded step, by id.

    An SAE without a record is left out. Training does not need the records: damaged ones are
    logged, and the table is then empty.
    """
    columns = ["loss", "explained_variance", "l0"]
    try:
        records = load_records(folder)
    except InputError as error:
        _log.warning("%s", error)
        return pd.DataFrame(columns=pd.Index(columns))
    last = records.groupby("sae_id").tail(1).set_index("sae_id")
    wanted = [name for name in sae_ids if name in last.index]
    return last.reindex(index=wanted, columns=columns).astype(float)


def damaged_line(content: bytes) -> int | None:
    """Return the number of the first line that is no JSON object, from 1, or None."""
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            is_object = isinstance(json.loads(line), dict)
        except ValueError:
            return number
        if not is_object:
            return number
    return None
