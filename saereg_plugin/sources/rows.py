"""First and last rows of a data set."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from typing import Any

import datasets
import datasets.config
import pyarrow.parquet as pq
from datasets.utils.file_utils import xgetsize, xopen

from saereg_plugin.errors import InputError

_PARTS = 10
"""At most one of so many parts of a split is taken."""
_MOST_BYTES = 2**31
"""Largest file that is fetched whole for its last rows; of a parquet file only the end is."""


def stream_rows(name_or_path: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split, from the first."""
    rows = datasets.load_dataset(
        name_or_path, split=split, streaming=True, **without_code()
    )
    return iter(rows)


def last_values(
    name_or_path: str, column: str, most: int, *, most_bytes: int = _MOST_BYTES
) -> list[Any]:
    """
    Return a column's last values of the split "train", reading its last files alone.

    These are ``most`` values, or a tenth of a split that has fewer than ten times as many.

    Raises:
        ValueError: if a script makes the rows, so that there are no files.
        InputError: if a file would have to be fetched whole and is larger than ``most_bytes``.
    """
    builder = datasets.load_dataset_builder(name_or_path, **without_code())
    files = builder.config.data_files
    if files is None:
        raise ValueError("a script makes its rows, of which the last are not known")
    values: list[Any] = []
    rows = 0
    for file in reversed(files["train"]):
        n_rows, last = _end_of(builder, str(file), column, most, most_bytes=most_bytes)
        values = [*last, *values][-most:]
        rows += n_rows
        if rows >= _PARTS * most:
            break
    return values[-max(1, min(most, rows // _PARTS)) :]


def _end_of(
    builder: datasets.DatasetBuilder,
    file: str,
    column: str,
    most: int,
    *,
    most_bytes: int,
) -> tuple[int, list[Any]]:
    """Return the number of rows of one file, and a column's last values."""
    if builder.name == "parquet":
        with xopen(file, "rb") as opened:
            return _end_of_parquet(pq.ParquetFile(opened), column, most)
    _require_short(file, most_bytes)
    rows: Any = datasets.load_dataset(
        str(builder.name),
        data_files=[file],
        split="train",
        streaming=True,
        **_settings_of(builder),
    )
    last: deque[Any] = deque(maxlen=most)
    n_rows = 0
    for row in rows:
        last.append(row[column])
        n_rows += 1
    return n_rows, list(last)


def _require_short(file: str, most_bytes: int) -> None:
    """Refuse to fetch a large file whole; one of this machine is read, however large."""
    if "://" not in file:
        return
    size = int(xgetsize(file))
    if size > most_bytes:
        raise InputError(
            f"File {file!r} is no parquet file, so that all of its {size / 2**30:.1f} GiB would be "
            f"fetched for the last rows; expected at most {most_bytes / 2**30:.1f} GiB. Choose a corpus with a split "
            "'validation' or 'test', or with parquet files."
        )


def _settings_of(builder: datasets.DatasetBuilder) -> dict[str, Any]:
    """Return what a data set says of its files' format, such as a separator."""
    config: Any = builder.config
    general = {field.name for field in dataclasses.fields(datasets.BuilderConfig)}
    usual = type(config)()
    return {
        field.name: value
        for field in dataclasses.fields(config)
        if field.name not in general
        and (value := getattr(config, field.name)) != getattr(usual, field.name)
    }


def _end_of_parquet(
    file: pq.ParquetFile, column: str, most: int
) -> tuple[int, list[Any]]:
    values: list[Any] = []
    for group in reversed(range(file.num_row_groups)):
        if len(values) >= most:
            break
        values = file.read_row_group(group, [column])[column].to_pylist() + values
    return file.metadata.num_rows, values[-most:]


def without_code() -> dict[str, Any]:
    """Return the argument by which no script of a data set runs; the user's variable may allow it."""
    allowed = getattr(datasets.config, "HF_DATASETS_TRUST_REMOTE_CODE", False)
    # since datasets 4 no script is ever run
    old = int(datasets.__version__.split(".")[0]) < 4
    return {"trust_remote_code": bool(allowed)} if old else {}
