"""Texts kept batch by batch among the artefacts: an interrupted run writes none twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.steering.generate.decoding import Continuation, Request


def kept_texts(
    folder: ArtifactFolder,
    name: str,
    requests: Sequence[Request],
    write: Callable[[list[Request]], list[Continuation]],
    *,
    batch_size: int,
) -> dict[Request, Continuation]:
    """
    Return a text for each request; batches that are kept are read, the others written and kept.

    Batches are cut at the same places every time, so a run that goes on makes the texts that
    an uninterrupted one would have made. A file that is damaged, or holds the texts of other
    requests, counts as absent.

    Args:
        folder: an artefact folder: what is in it follows from its determinants.
        name: of these texts, where a folder holds several kinds.
        requests: all different.
        write: writes a batch.
        batch_size: texts in a batch.
    """
    texts: dict[Request, Continuation] = {}
    starts = range(0, len(requests), batch_size)
    with folder.locked():
        for number, start in enumerate(
            tqdm(starts, desc=f"{name} texts", leave=False, disable=None)
        ):
            batch = list(requests[start : start + batch_size])
            file = f"{name}-{number:05d}.parquet"
            found = _read(folder.read(file), batch)
            if found is None:
                found = write(batch)
                with folder.write(file) as temporary:
                    _keep(temporary, batch, found)
            texts |= zip(batch, found, strict=True)
    return texts


def _read(path: Path | None, batch: Sequence[Request]) -> list[Continuation] | None:
    if path is None:
        return None
    rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    if [_request(row) for row in rows] != list(batch):
        return None
    return [
        Continuation(
            tokens=tuple(row["tokens"]),
            text=row["text"],
            near_ties=row["near_ties"],
            first_near_tie=row["first_near_tie"],
        )
        for row in rows
    ]


def _request(row: dict[str, Any]) -> Request:
    return Request(row["prompt"], row["sample"], row["vector"], row["strength"])


def _keep(path: Path, batch: Sequence[Request], texts: Sequence[Continuation]) -> None:
    schema = pa.schema(
        [
            ("prompt", pa.int64()),
            ("sample", pa.int64()),
            ("vector", pa.int64()),
            ("strength", pa.float64()),
            ("tokens", pa.list_(pa.int64())),
            ("text", pa.string()),
            ("near_ties", pa.int64()),
            ("first_near_tie", pa.int64()),
        ]
    )
    rows = [
        {
            "prompt": request.prompt,
            "sample": request.sample,
            "vector": request.vector,
            "strength": request.strength,
            "tokens": list(text.tokens),
            "text": text.text,
            "near_ties": text.near_ties,
            "first_near_tie": text.first_near_tie,
        }
        for request, text in zip(batch, texts, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
