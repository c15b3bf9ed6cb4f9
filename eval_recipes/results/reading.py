"""Reader of result files, this package's and SAEBench's own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval_recipes.results.tidy import saereg_block
from saereg_plugin.errors import InputError
from saereg_plugin.files import read_regular

SUFFIX = "_eval_results.json"
_REDO = "Delete it and run that evaluation again."
_MOVE = "Move it out of the results folder."


class _Numbers:
    """Parser of JSON numbers: non-finite ones become None, and ``seen`` is the last of them."""

    def __init__(self) -> None:
        self.seen: str | None = None

    def constant(self, token: str) -> None:
        """Read NaN, Infinity or -Infinity."""
        self.seen = token

    def number(self, token: str) -> float | None:
        """Read a number with a point or an exponent, such as 1e999."""
        value = float(token)
        if math.isfinite(value):
            return value
        self.seen = token
        return None


def read_result(path: Path) -> dict[str, Any]:
    """
    Read one result file, strictly if this package wrote it.

    SAEBench writes NaN and infinities as such, or as -1 in core: they become None.

    Raises:
        InputError: if it is missing, cut short, no regular file, no result file, holds a
            metric that is no number, or is ours and holds NaN; the message names the file.
    """
    content = read_regular(path, remedy=_REDO, max_bytes=1 << 31)
    numbers = _Numbers()
    try:
        record = json.loads(
            content, parse_constant=numbers.constant, parse_float=numbers.number
        )
        ours = isinstance(record, dict) and saereg_block(record) is not None
        if ours and numbers.seen is not None:
            raise ValueError(f"{numbers.seen} is no finite number")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"Result file {str(path)!r} cannot be read ({error}); expected strict "
            f"JSON in SAEBench's format. {_REDO}"
        ) from error
    _check_record(path, record)
    return _restored(record, ours=ours)


def _check_record(path: Path, record: Any) -> None:
    """Refuse a record that lacks the shape of a result."""
    known = record if isinstance(record, dict) else {}
    missing = {"eval_type_id", "eval_result_metrics"} - set(known)
    if missing:
        raise InputError(
            f"File {str(path)!r} lacks {', '.join(sorted(missing))}; expected a "
            f"result in SAEBench's format. {_MOVE}"
        )
    metrics = known["eval_result_metrics"]
    if not isinstance(metrics, dict) or not all(
        isinstance(category, dict) for category in metrics.values()
    ):
        raise InputError(
            f"File {str(path)!r} has no metrics by category; expected a result in "
            f"SAEBench's format. {_MOVE}"
        )
    for name, value, expected in _misfits(known):
        shown = str(value) if len(str(value)) < 40 else f"{str(value)[:36]} ..."
        raise InputError(
            f"Result file {str(path)!r} has {name!r} = {shown}; expected {expected}. {_REDO}"
        )


def _misfits(record: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield name, value and expected type of every field of a wrong type."""
    block = saereg_block(dict(record)) or {}
    texts = {
        "eval_type_id": record["eval_type_id"],
        "sae_lens_id": record.get("sae_lens_id") or "",
        "sae_lens_release_id": record.get("sae_lens_release_id") or "",
        "group": block.get("group") or "",
    }
    for name, value in texts.items():
        if not isinstance(value, str):
            yield name, value, "text"
    seed = block.get("seed")
    if seed is not None and not (_is_whole(seed) and abs(seed) < 1 << 63):
        yield "seed", seed, "an integer below 2 ** 63"
    if not isinstance(record.get("eval_result_details") or [], list):
        yield "eval_result_details", record["eval_result_details"], "a list"
    for category, metrics in record["eval_result_metrics"].items():
        for metric, value in metrics.items():
            name = f"{category}/{metric}"
            if isinstance(value, (str, list, dict)) or value is None:
                continue
            if not _is_finite(value):
                yield name, value, "a finite number"
            elif _is_count(metric, metrics) and value != round(value):
                yield name, value, "a whole number"


def _is_count(metric: str, metrics: Mapping[str, Any]) -> bool:
    """Return whether a metric is the count behind another."""
    return metric.endswith("_n") and metric.removesuffix("_n") in metrics


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    """Return whether a value is a number that a float can hold."""
    # an integer of 400 digits is none
    return not isinstance(value, bool) and abs(value) <= 1.7e308


# In these -1 is no value that upstream could have measured.
_NEVER_NEGATIVE = (
    "consistent_activation_heuristic",
    "feature_density",
    "encoder_norm",
)


def _restored(record: dict[str, Any], *, ours: bool) -> dict[str, Any]:
    """Turn the -1 that upstream's core writes for NaN into None; our details have null."""
    if record["eval_type_id"] != "core":
        return record
    for feature in () if ours else record.get("eval_result_details") or ():
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
    # a file that is being written has another ending
    return sorted(folder.rglob(f"*{SUFFIX}"))
