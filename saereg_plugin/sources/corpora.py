"""Texts by name: embedded, in a local folder, or on the hub."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256 as hash_bytes
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import datasets
import datasets.config
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.constants import HF_HUB_CACHE
from numpy.typing import NDArray

from saereg_plugin.errors import InputError, suggest_path
from saereg_plugin.files import folder_identity
from saereg_plugin.machine import require_extra
from saereg_plugin.sources import probe_texts
from saereg_plugin.sources.assets import (
    cache_dir,
    ensure_folder,
    is_intact,
    require_hub_repo,
)
from saereg_plugin.sources.dataset_copies import FILE, ROWS, with_sound_copy
from saereg_plugin.sources.rows import last_values, stream_rows, without_code

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
      split "validation", or else "test", copied to the cache folder. Of a corpus that has
      neither they are the last 10,000 rows of "train", or the last tenth of a shorter one.
      Training has read them only if it read that far.

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
    if split == "train":
        _require_available(name_or_path)
        _text_column(name_or_path, _own_split(name_or_path, ("train",)))
        return name_or_path
    return with_sound_copy(held_out(name_or_path).folder)


class HeldOut(NamedTuple):
    """Held-out text of a corpus."""

    folder: Path
    """Folder with one parquet file of one column."""
    split: str
    """Split that the rows are of: "validation", "test", "train", or "heldout" (embedded)."""

    @property
    def file(self) -> Path:
        """The parquet file."""
        return self.folder / FILE

    @property
    def column(self) -> str:
        """Name of the column, one of ``TEXT_COLUMNS``."""
        return str(pq.read_schema(self.file).names[0])

    @property
    def rows(self) -> int:
        """Number of texts."""
        return int(pq.read_metadata(self.file).num_rows)


def held_out(name_or_path: str) -> HeldOut:
    """
    Return the held-out text of a corpus; see :func:`ensure` for names and rules.

    What was copied from the hub before is read again without asking the hub.

    Raises:
        InputError: if the corpus cannot be used.
    """
    if name_or_path == EMBEDDED:
        return HeldOut(_ensure_embedded() / "heldout", "heldout")
    return _kept_heldout(name_or_path) or _ensure_heldout(name_or_path)


def own_name(path: str) -> str:
    """
    Return the name of a corpus by the path that SAELens was given.

    A folder that ``ensure`` built of the embedded texts is "embedded"; other names and paths
    stay as they are.
    """
    folder = Path(path)
    if folder.name in ("train", "heldout") and folder.parent == _embedded_folder():
        return EMBEDDED
    return path


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
    return ensure_folder(_embedded_folder(), _embedded_source(), _build)


def _embedded_folder() -> Path:
    return _folder(_embedded_source())


def _embedded_source() -> dict[str, Any]:
    return {
        "sae-probes": probe_texts.version(),
        "seed": _SEED,
        "heldout": HELD_OUT_TEXTS,
        "layout": _LAYOUT,
    }


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
            f"Corpus folder {name_or_path!r} does not exist; expected a data set. "
            f"{suggest_path(name_or_path)}".rstrip()
        )
    if not is_cached(name_or_path):
        require_hub_repo(
            name_or_path,
            kind="dataset",
            advice=suggest_path(name_or_path)
            or f"{EMBEDDED!r} works offline, as does the path of a local folder.",
        )


def is_cached(name: str) -> bool:
    """Return whether the hub's client or ``datasets`` has downloaded a data set."""
    snapshots = Path(HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}", "snapshots")
    prepared = Path(datasets.config.HF_DATASETS_CACHE, name.replace("/", "___"))
    return any(
        folder.is_dir() and any(folder.iterdir()) for folder in (snapshots, prepared)
    )


def _ensure_heldout(name_or_path: str) -> HeldOut:
    """Return the first rows of the held-out split, or the last rows of "train", in a folder."""
    _require_available(name_or_path)
    own = _own_split(name_or_path, (*_HELD_OUT_SPLITS, "train"))
    column = _text_column(name_or_path, own)
    source = _heldout_source(name_or_path, own)

    def build(target: Path) -> None:
        with _readable(name_or_path):
            if own == "train":
                values = last_values(name_or_path, column, HELD_OUT_TEXTS)
            else:
                rows = itertools.islice(stream_rows(name_or_path, own), HELD_OUT_TEXTS)
                values = [row[column] for row in rows]
            _write(target, column, values)

    return HeldOut(ensure_folder(_folder(source), source, build), own)


def _heldout_source(name_or_path: str, split: str) -> dict[str, Any]:
    return {
        "corpus": identity(name_or_path),
        "split": split,
        "rows": HELD_OUT_TEXTS,
        "layout": _LAYOUT,
    }


def _kept_heldout(name: str) -> HeldOut | None:
    """Return what was copied from a hub corpus before, or None."""
    if Path(name).exists():
        return None
    for split in (*_HELD_OUT_SPLITS, "train"):
        source = _heldout_source(name, split)
        if is_intact(_folder(source), source):
            return HeldOut(_folder(source), split)
    return None


def _own_split(name_or_path: str, wanted: tuple[str, ...]) -> str:
    with _readable(name_or_path):
        available = [
            str(name)
            for name in datasets.get_dataset_split_names(name_or_path, **without_code())
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
        columns = list(next(stream_rows(name_or_path, split)))
    for name in TEXT_COLUMNS:
        if name in columns:
            return name
    raise InputError(
        f"Corpus {name_or_path!r} has the columns {_list(columns)}; expected one of "
        f"{_list(TEXT_COLUMNS)}. Rename the column that holds the text."
    )


@contextmanager
def _readable(name_or_path: str) -> Iterator[None]:
    """Turn every error of ``datasets`` on unreadable data into ``InputError``."""
    try:
        yield
    except InputError:
        raise
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
