"""
Copies of parquet files that ``datasets`` keeps in its own cache.

``datasets`` converts a parquet file to Arrow and never checks the copy afterwards.
"""

from __future__ import annotations

import logging
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import datasets
import datasets.config
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from saereg_plugin.files import recover, scratch_folder

logger = logging.getLogger(__name__)

FILE = "train.parquet"
"""The parquet file of a folder."""
ROWS = 10_000
"""Rows of a group: few enough for a streaming reader to hold them in memory."""


def with_sound_copy(folder: Path) -> str:
    """
    Return a folder's path as text; remove a copy that differs from its parquet file.

    ``datasets`` converts a parquet file to Arrow in its own cache and never checks the copy.
    It makes a removed copy again.
    """
    copies = _copies_of(folder)
    # a sound copy needs no lock: the cache may be another user's
    if _is_damaged(folder, copies):
        with FileLock(f"{copies}.lock"):
            recover(copies)
            # another process may have removed it meanwhile
            if _is_damaged(folder, copies):
                logger.warning(
                    "The copy of %s in the cache of datasets, %s, is damaged; it is built again.",
                    folder,
                    copies,
                )
                with scratch_folder(copies) as aside:
                    copies.rename(aside / copies.name)
    return str(folder)


def _is_damaged(folder: Path, copies: Path) -> bool:
    return copies.is_dir() and not _is_sound(folder, copies, _identities(copies))


def _copies_of(folder: Path) -> Path:
    """Return where ``datasets`` keeps its copy, without reading the copy."""
    with tempfile.TemporaryDirectory() as empty:
        builder = datasets.load_dataset_builder(str(folder), cache_dir=empty)
        place = Path(builder.cache_dir).relative_to(empty)
    return Path(datasets.config.HF_DATASETS_CACHE, place)


def _identities(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    states = [(path, path.stat()) for path in sorted(folder.iterdir())]
    return tuple(
        (path.name, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        for path, state in states
    )


_DAMAGE = (
    pa.ArrowInvalid,
    pa.ArrowNotImplementedError,
    pa.ArrowTypeError,
    # of the JSON next to it
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    FileNotFoundError,
)
"""Errors of damaged Arrow, or damaged JSON next to it."""


@lru_cache(maxsize=64)
def _is_sound(folder: Path, copies: Path, _identities: Any) -> bool:
    """
    Return whether a copy holds the rows of the parquet file; both are read in parts.

    Raises:
        OSError: if the system cannot read the copy, whose content may be sound.
    """
    try:
        copy = datasets.load_dataset(str(folder), split="train")
        table: Any = cast("datasets.Dataset", copy).data.table
        table.validate(full=True)
        return _equal_rows(pq.ParquetFile(folder / FILE), table)
    except _DAMAGE as error:
        logger.debug("%s: %s", copies, error)
        return False
    except OSError as error:
        # pyarrow's error for a file that is cut short has no number
        if error.errno is not None:
            raise
        logger.debug("%s: %s", copies, error)
        return False


def _equal_rows(file: pq.ParquetFile, table: Any) -> bool:
    start = 0
    for batch in file.iter_batches(ROWS):
        part = table.slice(start, len(batch))
        expected = pa.Table.from_batches([batch]).cast(part.schema)
        if not part.equals(expected):
            return False
        start += len(batch)
    return start == len(table)
