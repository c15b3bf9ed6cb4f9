"""Folders that Neuronpedia's bulk import reads."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_recipes.neuronpedia.limits import to_json
from eval_recipes.neuronpedia.rows import (
    Owner,
    batch_rows,
    model_row,
    release_row,
    set_row,
    source_row,
)
from eval_recipes.neuronpedia.source import Source
from saereg_plugin.owned_folder import OwnedFolder, open_owned

KIND = "neuronpedia"
"""Kind of an export folder in its mark."""
BATCH = 1024
"""Latents of one file."""


@dataclass(frozen=True)
class Exported:
    """One SAE in an export folder."""

    source: Source
    folder: Path
    latents: int
    explanations: int


def write_export(
    sources: Sequence[Source], out: Path, *, owner: Owner | None = None
) -> list[Exported]:
    """
    Write a folder ``<model>/<layer>-<set>`` for each SAE into ``out``.

    Each holds ``release``, ``model``, ``sourceset`` and ``source.jsonl``, and
    ``features/``, ``activations/`` and ``explanations/batch-<n>.jsonl.gz``. The same results
    give the same bytes.

    Raises:
        InputError: if ``out`` holds files of others, or a latent is over a limit of
            Neuronpedia's; then no folder of its SAE is written or changed.
    """
    owned = open_owned(out, KIND)
    return [_write(source, owned, owner or Owner()) for source in sources]


def _write(source: Source, owned: OwnedFolder, owner: Owner) -> Exported:
    explained = 0
    with owned.write_folder(str(source.id)) as folder:
        for name, row in (
            ("release", release_row(source, owner)),
            ("model", model_row(source, owner)),
            ("sourceset", set_row(source, owner)),
            ("source", source_row(source, owner)),
        ):
            path = folder / f"{name}.jsonl"
            path.write_text(to_json(row) + "\n", encoding="utf-8")
        for number, start in enumerate(range(0, len(source.living), BATCH)):
            indices = source.living[start : start + BATCH]
            features, activations, explanations = batch_rows(source, owner, indices)
            explained += len(explanations)
            _write_rows(folder / "features", number, features)
            _write_rows(folder / "activations", number, activations)
            _write_rows(folder / "explanations", number, explanations)
    return Exported(source, owned.path / str(source.id), len(source.living), explained)


def _write_rows(folder: Path, number: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as lines of JSON; no file without rows."""
    content = "".join(to_json(row) + "\n" for row in rows)
    if not content:
        return
    folder.mkdir(exist_ok=True)
    with (
        (folder / f"batch-{number}.jsonl.gz").open("wb") as file,
        # neither name nor time, so that equal rows give equal bytes
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
    ):
        packed.write(content.encode())
