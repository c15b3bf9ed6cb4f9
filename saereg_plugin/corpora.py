"""Text by name: embedded in a package, in a local folder or file, or on the hub."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256 as hash_bytes
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from huggingface_hub.constants import HF_HUB_CACHE

from saereg_plugin.assets import cache_dir, require_hub_repo
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path, require_writable

EMBEDDED = "embedded"
"""Name of the corpus that needs no network: the prompts of sae-probes' data sets."""

HELD_OUT_TEXTS = 10_000
"""Number of texts of the embedded corpus that are kept out of its train split."""

TEXT_COLUMNS = ("text", "tokens", "input_ids")
"""Columns of which a corpus needs one, as SAELens looks for them."""

Split: TypeAlias = Literal["train", "heldout"]

_HELD_OUT_SPLITS = ("validation", "test")
_LAYOUT = 1
"""Raised whenever the stored texts change, so that older ones are redone."""


def ensure(name_or_path: str, split: Split = "train") -> str:
    """
    Return what ``datasets.load_dataset(..., split="train")`` opens as this split.

    The held-out split of the embedded corpus is a fixed random choice of its
    texts. For any other corpus it is the split that :func:`split_name` finds,
    and the caller passes that name to ``load_dataset``.

    Raises:
        InputError: if the corpus is unknown, unreachable, or holds no text.
    """
    if name_or_path == EMBEDDED:
        return str(_ensure_embedded(split, seed=0))
    split_name(name_or_path, split)
    return name_or_path


def split_name(name_or_path: str, split: Split = "train") -> str:
    """
    Return the name of the split inside what :func:`ensure` returns.

    Held-out text is the split "validation" if there is one, otherwise "test".

    Raises:
        InputError: if there is no such split, or it holds no text.
    """
    if name_or_path == EMBEDDED:
        return "train"
    available = _splits(name_or_path)
    wanted = ("train",) if split == "train" else _HELD_OUT_SPLITS
    found = next((name for name in wanted if name in available), None)
    if found is None:
        raise InputError(
            f"Corpus {name_or_path!r} has the splits {', '.join(map(repr, available))}; expected "
            f"{' or '.join(map(repr, wanted))} for {split} text. Pass a corpus that has it, "
            f"or {EMBEDDED!r}."
        )
    columns = _columns(name_or_path, found)
    if not set(columns) & set(TEXT_COLUMNS):
        raise InputError(
            f"Corpus {name_or_path!r} has the columns {', '.join(map(repr, columns))}; expected "
            f"one of {', '.join(map(repr, TEXT_COLUMNS))}. Rename the column that holds the text."
        )
    return found


def load(
    name_or_path: str, split: Split = "train", *, streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """
    Open a corpus; see :func:`ensure` for the names.

    Raises:
        InputError: if the corpus is unknown, unreachable, or holds no text.
    """
    path = ensure(name_or_path, split)
    options = _load_options(path)
    return datasets.load_dataset(
        **options, split=split_name(name_or_path, split), streaming=streaming
    )


def embedded_text(split: Split = "train", seed: int = 0) -> datasets.Dataset:
    """
    Return the embedded corpus: one column ``text``, no text twice, in a seeded order.

    The seed chooses both the order and the held-out texts. The first call for
    a seed takes about ten seconds; its result is kept in the cache folder.
    """
    folder = _ensure_embedded(split, seed)
    return datasets.load_dataset(str(folder), split="train")


# The embedded corpus


def _ensure_embedded(split: Split, seed: int) -> Path:
    if split not in ("train", "heldout"):
        raise InputError(f"Unknown split {split!r}; expected 'train' or 'heldout'.")
    corpus = _corpus_folder(seed)
    if not _is_intact(corpus):
        require_writable(corpus.parent)
        with FileLock(f"{corpus}.lock"):
            # Another process may have written it while this one waited.
            if not _is_intact(corpus):
                _build(corpus, seed)
    return corpus / split


def _corpus_folder(seed: int) -> Path:
    key = {
        "sae-probes": version("sae-probes"),
        "seed": seed,
        "heldout": HELD_OUT_TEXTS,
        "layout": _LAYOUT,
    }
    digest = hash_bytes(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "corpora" / digest[:16]


def _is_intact(corpus: Path) -> bool:
    """Whether both splits are there and readable as far as their footers say."""
    try:
        rows = [
            pq.read_metadata(corpus / split / "train.parquet").num_rows
            for split in ("train", "heldout")
        ]
    except (FileNotFoundError, pa.ArrowInvalid):
        return False
    return rows[0] > 0 and rows[1] == HELD_OUT_TEXTS


def _build(corpus: Path, seed: int) -> None:
    texts = _read_texts()
    texts = texts[np.random.default_rng(seed).permutation(len(texts))]
    parts = {"train": texts[HELD_OUT_TEXTS:], "heldout": texts[:HELD_OUT_TEXTS]}
    with atomic_path(corpus) as target:
        for split, part in parts.items():
            (target / split).mkdir(parents=True)
            table = pa.table({"text": pa.array(part, type=pa.large_string())})
            pq.write_table(table, target / split / "train.parquet", row_group_size=10_000)


def _read_texts() -> np.ndarray:
    """Return the distinct texts in sae-probes' data as an object array, in a fixed order."""
    prompts = [
        pd.read_csv(file, usecols=["prompt"], dtype=str, keep_default_na=False)["prompt"]
        for file in _prompt_files()
    ]
    texts = pd.concat(prompts, ignore_index=True).str.strip()
    return texts[texts != ""].drop_duplicates().to_numpy(dtype=object)


def _prompt_files() -> list[Path]:
    # Found without importing sae_probes, which imports its models' loaders.
    package = importlib.util.find_spec("sae_probes")
    if package is None or not package.submodule_search_locations:
        raise InputError(
            "Package sae-probes, whose data the embedded corpus is, is not installed; "
            "run `pip install sae-probes`."
        )
    folder = Path(package.submodule_search_locations[0], "data", "cleaned_data")
    files = sorted(folder.glob("*.csv.zst"))
    if not files:
        raise InputError(
            f"Folder {str(folder)!r} has no *.csv.zst; expected the data that sae-probes "
            "ships. Run `pip install --force-reinstall --no-deps sae-probes`."
        )
    return files


# Local folders, files and the hub


_BUILDERS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".txt": "text",
    ".arrow": "arrow",
}


def _load_options(path: str) -> dict[str, str]:
    """Return the arguments with which ``load_dataset`` opens a folder, a file or a hub name."""
    file = Path(path)
    if file.is_file():
        return {"path": _BUILDERS[file.suffix], "data_files": path}
    return {"path": path}


def _splits(name_or_path: str) -> list[str]:
    path = Path(name_or_path)
    if path.is_file():
        _require_known_suffix(path)
        return ["train"]
    if path.is_dir():
        with _readable(name_or_path):
            return [str(split) for split in datasets.get_dataset_split_names(name_or_path)]
    if name_or_path.startswith((".", "/", "~")):
        raise InputError(
            f"Corpus {name_or_path!r} does not exist; expected a folder or file of text."
        )
    if not _is_cached(name_or_path):
        require_hub_repo(
            name_or_path,
            kind="dataset",
            advice=f"{EMBEDDED!r} works offline, as does the path of a local folder or file.",
        )
    with _readable(name_or_path):
        return [str(split) for split in datasets.get_dataset_split_names(name_or_path)]


def _columns(name_or_path: str, split: str) -> list[str]:
    with _readable(name_or_path):
        rows = datasets.load_dataset(**_load_options(name_or_path), split=split, streaming=True)
        return list(next(iter(rows)))


@contextmanager
def _readable(name_or_path: str) -> Iterator[None]:
    """Turn whatever ``datasets`` raises on data that it cannot open into one clear error."""
    try:
        yield
    # Its builders raise errors of many libraries (pyarrow, pandas, json, fsspec, ...).
    except Exception as error:
        raise InputError(
            f"Corpus {name_or_path!r} cannot be opened ({type(error).__name__}: {error}); "
            "expected a folder or file that `datasets.load_dataset` opens, with at least one row."
        ) from error


def _is_cached(name: str) -> bool:
    """Whether the hub client or ``datasets`` has downloaded this data set before."""
    snapshots = Path(HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}", "snapshots")
    prepared = Path(datasets.config.HF_DATASETS_CACHE, name.replace("/", "___"))
    return any(folder.is_dir() and any(folder.iterdir()) for folder in (snapshots, prepared))


def _require_known_suffix(path: Path) -> None:
    if path.suffix not in _BUILDERS:
        raise InputError(
            f"Corpus file {str(path)!r} ends in {path.suffix!r}; expected one of "
            f"{', '.join(map(repr, _BUILDERS))}."
        )
