"""Texts by name: embedded, in a local folder, or on the hub."""

from __future__ import annotations

import itertools
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256 as hash_bytes
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import datasets
import datasets.config
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from huggingface_hub.constants import HF_HUB_CACHE
from numpy.typing import NDArray

from saereg_plugin.errors import InputError
from saereg_plugin.files import folder_identity, recover, scratch_folder
from saereg_plugin.machine import require_extra
from saereg_plugin.sources import probe_texts
from saereg_plugin.sources.assets import cache_dir, ensure_folder, require_hub_repo

EMBEDDED = "embedded"
"""Name of the corpus that needs no network: the prompts of sae-probes' data sets."""

HELD_OUT_TEXTS = 10_000
"""Held-out texts of the embedded corpus, and most held-out texts of another."""

TEXT_COLUMNS = ("tokens", "input_ids", "text")
"""Columns of which a corpus needs one, in the order of SAELens."""

Split: TypeAlias = Literal["train", "heldout"]

_HELD_OUT_SPLITS = ("validation", "test")
_SEED = 0
"""Seed of the order of the embedded texts, and so of the held-out texts."""
_LAYOUT = 1
"""Raised whenever the stored texts change, so that old folders are built again."""


def ensure(name_or_path: str, split: Split = "train") -> str:
    """
    Return a path or name whose split "train" is the wanted split of a corpus.

    Callers of ``datasets.load_dataset(path, split="train")`` can use it, such as SAELens'
    runners and SAEBench's core evaluation.

    - "embedded": both splits are fixed random choices, without a common text.
    - Any other corpus: its own split "train"; held out are the first 10,000 rows of its
      split "validation", or else "test", copied to the cache folder.

    Args:
        name_or_path: "embedded", a folder that ``datasets`` opens, or a hub name.
        split: text to train on, or text that training never sees.

    Raises:
        InputError: if the corpus is unknown or unreachable, or has no such split or no
            column of tokens or text.
    """
    if split not in ("train", "heldout"):
        raise InputError(f"Unknown split {split!r}; expected 'train' or 'heldout'.")
    if name_or_path == EMBEDDED:
        return with_sound_copy(_ensure_embedded() / split)
    _require_available(name_or_path)
    if split == "train":
        _text_column(name_or_path, _own_split(name_or_path, ("train",)))
        return name_or_path
    return with_sound_copy(_ensure_heldout(name_or_path))


def identity(name_or_path: str) -> Any:
    """Return a hub name itself, or plain JSON that changes with a local folder's files."""
    folder = Path(name_or_path)
    return folder_identity(folder) if folder.is_dir() else name_or_path


def load(
    name_or_path: str, split: Split = "train", *, streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """
    Open a split of a corpus; see :func:`ensure` for names and rules.

    Raises:
        InputError: if the corpus cannot be used.
    """
    opened = datasets.load_dataset(
        ensure(name_or_path, split), split="train", streaming=streaming
    )
    return cast("datasets.Dataset | datasets.IterableDataset", opened)


def _ensure_embedded() -> Path:
    source = {
        "sae-probes": probe_texts.version(),
        "seed": _SEED,
        "heldout": HELD_OUT_TEXTS,
        "layout": _LAYOUT,
    }
    return ensure_folder(_folder(source), source, _build)


def _build(target: Path) -> None:
    texts = _read_texts()
    texts = texts[np.random.default_rng(_SEED).permutation(len(texts))]
    _write(target / "train", "text", texts[HELD_OUT_TEXTS:])
    _write(target / "heldout", "text", texts[:HELD_OUT_TEXTS])


def _read_texts() -> NDArray[np.object_]:
    """Return the distinct texts in sae-probes' data, always in the same order."""
    require_extra("offline", f"The corpus {EMBEDDED!r}")
    prompts = [
        probe_texts.read(file)["prompt"] for file in probe_texts.files().values()
    ]
    texts = pd.concat(prompts, ignore_index=True).str.strip()
    return texts[texts != ""].drop_duplicates().to_numpy(dtype=object)


def _require_available(name_or_path: str) -> None:
    """Refuse, within seconds, a name that is neither a folder nor a reachable data set."""
    path = Path(name_or_path)
    if path.is_file():
        raise InputError(
            f"Corpus {name_or_path!r} is a file; expected a folder. Pass the folder that holds "
            "it, with no other data in it."
        )
    if path.is_dir():
        return
    if name_or_path.startswith((".", "/", "~")):
        raise InputError(
            f"Corpus folder {name_or_path!r} does not exist; expected a data set."
        )
    if not is_cached(name_or_path):
        require_hub_repo(
            name_or_path,
            kind="dataset",
            advice=f"{EMBEDDED!r} works offline, as does the path of a local folder.",
        )


def is_cached(name: str) -> bool:
    """Return whether the hub's client or ``datasets`` has downloaded a data set."""
    snapshots = Path(HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}", "snapshots")
    prepared = Path(datasets.config.HF_DATASETS_CACHE, name.replace("/", "___"))
    return any(
        folder.is_dir() and any(folder.iterdir()) for folder in (snapshots, prepared)
    )


def _ensure_heldout(name_or_path: str) -> Path:
    """Return a folder with the first rows of the corpus' held-out split."""
    own = _own_split(name_or_path, _HELD_OUT_SPLITS)
    column = _text_column(name_or_path, own)
    source = {
        "corpus": identity(name_or_path),
        "split": own,
        "rows": HELD_OUT_TEXTS,
        "layout": _LAYOUT,
    }

    def build(target: Path) -> None:
        with _readable(name_or_path):
            rows = itertools.islice(_rows(name_or_path, own), HELD_OUT_TEXTS)
            _write(target, column, [row[column] for row in rows])

    return ensure_folder(_folder(source), source, build)


def _own_split(name_or_path: str, wanted: tuple[str, ...]) -> str:
    with _readable(name_or_path):
        available = [
            str(name) for name in datasets.get_dataset_split_names(name_or_path)
        ]
    for name in wanted:
        if name in available:
            return name
    raise InputError(
        f"Corpus {name_or_path!r} has the splits {_list(available)}; expected {_list(wanted)}. "
        f"In a folder, a file's name gives its split, as in '{wanted[0]}.parquet'; "
        f"{EMBEDDED!r} has both train and held-out text."
    )


def _text_column(name_or_path: str, split: str) -> str:
    with _readable(name_or_path):
        columns = list(next(_rows(name_or_path, split)))
    for name in TEXT_COLUMNS:
        if name in columns:
            return name
    raise InputError(
        f"Corpus {name_or_path!r} has the columns {_list(columns)}; expected one of "
        f"{_list(TEXT_COLUMNS)}. Rename the column that holds the text."
    )


def _rows(name_or_path: str, split: str) -> Iterator[dict[str, Any]]:
    return iter(datasets.load_dataset(name_or_path, split=split, streaming=True))


@contextmanager
def _readable(name_or_path: str) -> Iterator[None]:
    """Turn every error of ``datasets`` on unreadable data into ``InputError``."""
    try:
        yield
    # its readers raise errors of many libraries: pyarrow, pandas, json, fsspec, ...
    except Exception as error:
        raise InputError(
            f"Corpus {name_or_path!r} cannot be opened ({type(error).__name__}: {error}); "
            "expected data that `datasets.load_dataset` opens, with at least one row."
        ) from error


def _folder(source: dict[str, Any]) -> Path:
    digest = hash_bytes(json.dumps(source, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "corpora" / digest[:16]


def _write(folder: Path, column: str, values: Iterable[Any]) -> None:
    folder.mkdir(parents=True)
    table = pa.table({column: pa.array(values)})
    pq.write_table(table, folder / FILE, row_group_size=ROWS)


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


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
