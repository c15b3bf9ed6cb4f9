"""Result files in SAEBench's format: paths, writing, reading, one tidy table."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict
from uuid import uuid4

import numpy as np
import pandas as pd
from pydantic_core import to_jsonable_python
from sae_bench.evals.base_eval_output import BaseEvalOutput

from eval_recipes.results.outdated import are_outdated
from eval_recipes.results.reading import SUFFIX, read_result, result_files
from eval_recipes.results.subject import Subject
from eval_recipes.results.tidy import COLUMNS, data_of, frame_of
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path, sha256, write_text
from saereg_plugin.owned_folder import folder_lock

if TYPE_CHECKING:
    from sae_lens import SAE

SUMMARY = "summary.csv"
SUMMARY_COLUMNS = [*COLUMNS, "outdated"]

# A latent that never fires has no frequency: only there is "no value" an answer.
_MAY_BE_NULL = {"eval_result_details", "eval_result_unstructured"}


class ResultKey(NamedTuple):
    """A hash of all that decides a result, and what it was made of."""

    digest: str
    settings: Mapping[str, str]
    """JSON of each setting by its dotted name; of a long one a hash."""


# Key of each result that a run asks for, by path.
_keys: ContextVar[Mapping[Path, ResultKey]] = ContextVar("result_keys", default={})


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


def plain(value: Any) -> Any:
    """Return a configuration as plain JSON types; what JSON lacks becomes text."""
    return to_jsonable_python(value, fallback=_listed_or_text)


def _listed_or_text(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)


def base_fields(subject: Subject, sae: SAE[Any]) -> BaseFields:
    """Return the fields of an output that say what was evaluated, when, by what."""
    return BaseFields(
        eval_id=str(uuid4()),
        datetime_epoch_millis=int(time.time() * 1000),
        # Upstream records the git hash of the repository in the working folder.
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


@contextmanager
def keyed(keys: Mapping[Path, ResultKey]) -> Iterator[None]:
    """
    Let ``write_result`` put each file's key into its ``saereg`` block inside this block.

    A key hashes everything that a result depends on (``eval_recipes.running.plan``). It is
    written with the file, so that a killed evaluation keeps its finished results; so are its
    settings, so that a later run can name those that differ.
    """
    token = _keys.set(keys)
    try:
        yield
    finally:
        _keys.reset(token)


def _with_key(path: Path, extra: Any) -> Any:
    """Return unstructured results with the key of ``path``, if it has one."""
    key = _keys.get().get(path)
    if key is None or not isinstance(extra, dict):
        return extra
    written = {"key": key.digest, "settings": dict(key.settings)}
    return {**extra, "saereg": {**extra.get("saereg", {}), **written}}


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


def write_result(path: Path, output: BaseEvalOutput[Any, Any, Any]) -> Path:
    """
    Write one result file atomically; it replaces an earlier one.

    Raises:
        NonFiniteError: see ``result_text``.
    """
    write_text(path, result_text(path, output))
    return path


def result_text(path: Path, output: BaseEvalOutput[Any, Any, Any]) -> str:
    """
    Return the strict JSON of one result file.

    In details and unstructured results a NaN or infinity becomes null.

    Raises:
        NonFiniteError: if any other field is NaN or infinite; names the metric.
    """
    fields = dataclasses.asdict(output)  # pyright: ignore[reportArgumentType]
    record = {
        name: to_jsonable_python(value, inf_nan_mode="null")
        if name in _MAY_BE_NULL
        else value
        for name, value in fields.items()
    }
    name = "eval_result_unstructured"
    record[name] = _with_key(path, record.get(name))
    broken = list(_non_finite(record))
    if broken:
        raise NonFiniteError(
            f"{', '.join(broken[:5])} of SAE {output.sae_lens_id!r} is not finite; "
            f"{path.name!r} was not written."
        )
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def read_results(
    folder: Path, *, without: Collection[Path] = ()
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """
    Yield every result below ``folder`` with its path, except those ``without``.

    Copies of a result are skipped.

    Raises:
        InputError: if a file is broken, or two files hold different results of one SAE.
    """
    found: dict[tuple[str, str, str], Path] = {}
    for path in result_files(folder):
        if path in without:
            continue
        record = read_result(path)
        identity = _identity(record)
        other = found.setdefault(identity, path) if identity is not None else path
        if other == path:
            yield path, record
        elif sha256(other) != sha256(path):
            raise InputError(
                f"Files {str(other)!r} and {str(path)!r} hold different results of "
                f"{record['eval_type_id']!r} for SAE {record['sae_lens_id']!r}; expected one. "
                "Move one of them away, or name a folder that holds only one."
            )


def _identity(record: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return evaluation, release and id of a result, or None if it lacks them."""
    release, sae_id = record.get("sae_lens_release_id"), record.get("sae_lens_id")
    if release is None or sae_id is None:
        return None
    return record["eval_type_id"], release, sae_id


def load_results(folder: Path, *, without: Collection[Path] = ()) -> pd.DataFrame:
    """
    Read every result below ``folder`` into one tidy table (``tidy.frame_of``).

    Files that SAEBench itself wrote are also read. Files ``without`` are left out. The last
    column, ``outdated``, marks results whose replacement failed.

    Raises:
        InputError: naming a broken file, or two files with different results of one SAE.
    """
    frame = frame_of(record for _, record in read_results(folder, without=without))
    return frame.assign(outdated=are_outdated(frame, folder))


def has_embedded_data(folder: Path) -> bool:
    """Return whether any result below ``folder`` is from embedded labelled texts."""
    return any(data_of(record) == "embedded" for _, record in read_results(folder))


def write_summary(folder: Path, *, without: Collection[Path] = ()) -> Path:
    """Write ``folder/summary.csv``, the tidy table of all results in the folder."""
    target = folder / SUMMARY
    with folder_lock(folder), atomic_path(target) as temporary:
        load_results(folder, without=without).to_csv(temporary, index=False)
    return target
