"""Result files as they lie in a folder, this package's and SAEBench's own: finding, reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval_recipes.frame import saereg_block
from saereg_plugin.errors import InputError

SUFFIX = "_eval_results.json"


class _Constants:
    """Reads NaN and infinities as None, and remembers that there were any."""

    def __init__(self) -> None:
        self.seen: str | None = None

    def __call__(self, token: str) -> None:
        self.seen = token


def read_result(path: Path) -> dict[str, Any]:
    """
    Read one result file: strictly if this package wrote it, else as SAEBench means it.

    SAEBench writes NaN as such, and in core's features as -1: both become None.

    Raises:
        InputError: if it is missing, cut short, is no result file, or is ours and holds
            NaN; the message names the file.
    """
    constants = _Constants()
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=constants)
        ours = isinstance(record, dict) and saereg_block(record) is not None
        if ours and constants.seen is not None:
            raise ValueError(f"{constants.seen} is not JSON")
    except (OSError, ValueError) as error:
        raise InputError(
            f"Result file {str(path)!r} cannot be read ({error}); expected strict "
            "JSON in SAEBench's format. Delete it and run that evaluation again."
        ) from error
    missing = {"eval_type_id", "eval_result_metrics"} - set(
        record if isinstance(record, dict) else ()
    )
    if missing:
        raise InputError(
            f"File {str(path)!r} lacks {', '.join(sorted(missing))}; expected a "
            "result in SAEBench's format. Move it out of the results folder."
        )
    metrics = record["eval_result_metrics"]
    if not isinstance(metrics, dict) or not all(
        isinstance(category, dict) for category in metrics.values()
    ):
        raise InputError(
            f"File {str(path)!r} has no metrics by category; expected a result in "
            "SAEBench's format. Move it out of the results folder."
        )
    return record if ours else _restored(record)


# In these -1 is no value that upstream could have measured.
_NEVER_NEGATIVE = (
    "consistent_activation_heuristic",
    "feature_density",
    "encoder_norm",
)


def _restored(record: dict[str, Any]) -> dict[str, Any]:
    """Undo what upstream's core does to NaN before it writes: -1 stands in its place."""
    if record["eval_type_id"] != "core":
        return record
    for feature in record.get("eval_result_details") or ():
        for name in _NEVER_NEGATIVE:
            if isinstance(feature, dict) and feature.get(name) == -1:
                feature[name] = None
    for category in record["eval_result_metrics"].values():
        for name, value in category.items():
            # no figure of core measures exactly -1
            if value == -1:
                category[name] = None
    return record


def result_files(folder: Path) -> list[Path]:
    """
    Return every result file below a folder, in the order of their paths.

    Raises:
        InputError: if there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(
            f"Results folder {str(folder)!r} does not exist; expected the folder "
            "an evaluation wrote to. Check the spelling or run an evaluation first."
        )
    # A file that is being written has a name with a leading dot.
    return sorted(
        path for path in folder.rglob(f"*{SUFFIX}") if not path.name.startswith(".")
    )
