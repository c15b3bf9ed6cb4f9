"""Result files in SAEBench's format: where they lie, writing, reading, one tidy table."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict
from uuid import uuid4

import pandas as pd
from sae_bench.evals.base_eval_output import BaseEvalOutput
from sae_lens import SAE

from eval_recipes.context import Subject
from eval_recipes.plain import plain
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path, write_json

SUFFIX = "_eval_results.json"
SUMMARY_COLUMNS = [
    "release",
    "group",
    "seed",
    "sae_id",
    "eval",
    "metric",
    "value",
    "low",
    "high",
    "n",
]

# What a metric's companions are called, and the column of the tidy table each fills.
_COMPANIONS = {"_ci_low": "low", "_ci_high": "high", "_n": "n"}
# A latent that never fires has no frequency: only there is "no value" an answer.
_MAY_BE_NULL = {"eval_result_details", "eval_result_unstructured"}


class NonFiniteError(ValueError):
    """A metric is NaN or infinite; the message names its path."""


class BaseFields(TypedDict):
    """The fields every output has in common, by the names SAEBench gave them."""

    eval_id: str
    datetime_epoch_millis: int
    sae_bench_commit_hash: str
    sae_lens_id: str | None
    sae_lens_release_id: str | None
    sae_lens_version: str | None
    sae_cfg_dict: dict[str, Any] | None


def result_name(release: str, sae_id: str) -> str:
    """
    Return the file name SAEBench gives the result of one SAE.

    >>> result_name("lab/run", "blocks.4/k32")
    'lab_run_blocks.4_k32_eval_results.json'
    """
    return f"{release}_{sae_id}{SUFFIX}".replace("/", "_")


def result_path(out: Path, eval: str, release: str, sae_id: str) -> Path:
    """Return ``out/<eval>/<release>_<sae_id>_eval_results.json``."""
    return out / eval / result_name(release, sae_id)


def check_unique_paths(subjects: Iterable[Subject]) -> None:
    """
    Refuse SAEs whose results would overwrite one another.

    SAEBench's file names turn "/" into "_", so ``a/b`` + ``c`` and ``a`` +
    ``b/c`` share one.

    Raises:
        InputError: names both SAEs and the file they share.
    """
    owners: dict[str, Subject] = {}
    for subject in subjects:
        name = result_name(subject.release, subject.sae_id)
        other = owners.setdefault(name, subject)
        if other is not subject:
            raise InputError(
                f"SAE {other.sae_id!r} of release {other.release!r} and SAE "
                f"{subject.sae_id!r} of release {subject.release!r} would both be "
                f"written to {name!r}; expected different files. Rename one of "
                "them or evaluate them into different folders."
            )


def base_fields(subject: Subject, sae: SAE[Any]) -> BaseFields:
    """Return the fields of an output that say what was evaluated, when, by what."""
    return BaseFields(
        eval_id=str(uuid4()),
        datetime_epoch_millis=int(time.time() * 1000),
        # Upstream records the git hash of whatever repository the user stands in.
        sae_bench_commit_hash=f"sae-bench=={version('sae-bench')}",
        sae_lens_id=subject.sae_id,
        sae_lens_release_id=subject.release,
        sae_lens_version=version("sae-lens"),
        sae_cfg_dict=plain(sae.cfg.to_dict()),
    )


def unstructured(subject: Subject, **extra: Any) -> dict[str, Any]:
    """
    Return a value for ``eval_result_unstructured`` that carries group and seed.

    SAEBench's format has no place for them; ``load_results`` reads them here.
    """
    return {**extra, "saereg": {"group": subject.group, "seed": subject.seed}}


def _non_finite(value: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every NaN or infinity in a nested value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _non_finite(item, f"{path}/{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _non_finite(item, f"{path}/{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield path


def _null_non_finite(value: Any) -> Any:
    """Return a copy in which every NaN or infinity is None."""
    if isinstance(value, dict):
        return {key: _null_non_finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_null_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_result(path: Path, output: BaseEvalOutput[Any, Any, Any]) -> Path:
    """
    Write one result file as strict JSON: whole, or not at all.

    In details and unstructured results a NaN or infinity becomes null.

    Raises:
        NonFiniteError: if one stands anywhere else; the message names the metric.
    """
    fields = dataclasses.asdict(output)  # pyright: ignore[reportArgumentType]
    record = {
        name: _null_non_finite(value) if name in _MAY_BE_NULL else value
        for name, value in fields.items()
    }
    broken = list(_non_finite(record))
    if broken:
        raise NonFiniteError(
            f"{', '.join(broken[:5])} of SAE {output.sae_lens_id!r} is not finite; "
            f"{path.name!r} was not written."
        )
    write_json(path, record)
    return path


def _refuse_constant(token: str) -> Any:
    raise ValueError(f"{token} is not JSON")


def read_result(path: Path) -> dict[str, Any]:
    """
    Read one result file strictly.

    Raises:
        InputError: if it is missing, cut short, holds NaN or is no result file;
            the message names the file.
    """
    try:
        record = json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_refuse_constant
        )
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
    return record


def _rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one tidy row a metric; a metric's companions fill its low, high and n."""
    extra = record.get("eval_result_unstructured")
    block = extra.get("saereg", {}) if isinstance(extra, dict) else {}
    common = {
        "release": record.get("sae_lens_release_id"),
        "group": block.get("group"),
        "seed": block.get("seed"),
        "sae_id": record.get("sae_lens_id"),
        "eval": record["eval_type_id"],
    }
    for category, metrics in record["eval_result_metrics"].items():
        companions = {
            metric + suffix
            for metric in metrics
            for suffix in _COMPANIONS
            if metric + suffix in metrics
        }
        for metric, value in metrics.items():
            if metric in companions or isinstance(value, (str, list, dict)):
                continue
            interval = {
                column: metrics.get(metric + suffix)
                for suffix, column in _COMPANIONS.items()
            }
            yield {
                **common,
                "metric": f"{category}/{metric}",
                "value": value,
                **interval,
            }


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


def load_results(folder: Path) -> pd.DataFrame:
    """
    Read every result below ``folder`` into one tidy table.

    Returns:
        One row a metric, columns ``SUMMARY_COLUMNS``; ``metric`` is
        ``category/name``; ``low``, ``high`` and ``n`` are missing where the
        evaluation gives none.

    Raises:
        InputError: if a file is broken, naming it; a file is never passed over.
    """
    rows = [row for path in result_files(folder) for row in _rows(read_result(path))]
    frame = pd.DataFrame(rows, columns=pd.Index(SUMMARY_COLUMNS))
    numeric = {"value": "float64", "low": "float64", "high": "float64"}
    return frame.astype({**numeric, "seed": "Int64", "n": "Int64"})


def write_summary(folder: Path) -> Path:
    """Write ``folder/summary.csv``, the tidy table of all results in the folder."""
    target = folder / "summary.csv"
    frame = load_results(folder)
    with atomic_path(target) as temporary:
        frame.to_csv(temporary, index=False)
    return target
