"""Texts that were written, kept among the artefacts: an interrupted run writes none twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eval_recipes.steering.arms import Trial
from eval_recipes.steering.decoding import Continuation
from saereg_plugin.files import atomic_path

_FILE = "texts.parquet"
_SIDES = ("original", "other")
_PLAIN = ("arm", "latent", "prompt", "repeat", "amount", "strength")


def stored_trials(folder: Path, write: Callable[[], list[Trial]]) -> list[Trial]:
    """
    Return the trials kept in a folder; if there are none, make and keep them.

    A file that cannot be read counts as absent.

    Args:
        folder: an artefact folder: what is in it follows from its determinants.
        write: makes the trials.
    """
    path = folder / _FILE
    try:
        # a path that is no file would be read as a data set of several
        with path.open("rb") as file:
            return _trials(pq.read_table(file).to_pylist())
    except (OSError, pa.ArrowException, KeyError):
        trials = write()
    rows = [_row(trial) for trial in trials]
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), temporary)
    return trials


def _schema() -> Any:
    side = pa.struct(
        [
            ("tokens", pa.list_(pa.int64())),
            ("text", pa.string()),
            ("near_ties", pa.int64()),
            ("first_near_tie", pa.int64()),
        ]
    )
    kinds = [pa.string(), *[pa.int64()] * 3, *[pa.float64()] * 2]
    return pa.schema(
        [*zip(_PLAIN, kinds, strict=True), *((name, side) for name in _SIDES)]
    )


def _row(trial: Trial) -> dict[str, Any]:
    sides = {name: getattr(trial, name) for name in _SIDES}
    return {name: getattr(trial, name) for name in _PLAIN} | {
        name: {
            "tokens": list(text.tokens),
            "text": text.text,
            "near_ties": text.near_ties,
            "first_near_tie": text.first_near_tie,
        }
        for name, text in sides.items()
    }


def _trials(rows: list[dict[str, Any]]) -> list[Trial]:
    return [
        Trial(
            **{name: row[name] for name in _PLAIN},
            original=_continuation(row["original"]),
            other=_continuation(row["other"]),
        )
        for row in rows
    ]


def _continuation(row: dict[str, Any]) -> Continuation:
    return Continuation(
        tokens=tuple(row["tokens"]),
        text=row["text"],
        near_ties=row["near_ties"],
        first_near_tie=row["first_near_tie"],
    )
