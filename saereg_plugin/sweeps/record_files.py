"""Training records as files of other programs: CSV and TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from saereg_plugin.checks import require_name
from saereg_plugin.files import atomic_path, write_text
from saereg_plugin.machine import require_extra
from saereg_plugin.owned_folder import open_owned
from saereg_plugin.releases.records import load_records

KIND = "records"
"""Kind of a folder of these files in its mark."""
CSV = "records.csv"
EVENTS = "events.out.tfevents.0.saereg"
"""TensorBoard's file of one SAE; TensorBoard finds files by ``tfevents`` in their names."""
_NOT_SCALARS = ("sae_id", "step", "event", "reason")


def records_folder(release: str | Path) -> Path:
    """Return the folder next to a release to which records are written by default."""
    path = Path(release)
    return path.with_name(f"{path.resolve().name}-records")


def write_csv(release: str | Path, out: Path) -> Path:
    """
    Write the rows of ``load_records`` into ``records.csv``; every digit is kept.

    Raises:
        InputError: if the release has no records, or a damaged one, or if ``out`` holds files
            that this package did not write.
    """
    text = load_records(release).to_csv(index=False, lineterminator="\n")
    open_owned(out, KIND).claim([CSV])
    write_text(out / CSV, text)
    return out / CSV


def write_events(release: str | Path, out: Path) -> list[Path]:
    """
    Write one TensorBoard run per SAE, a folder named as the SAE, with a scalar per metric.

    Steps are those of the records. Records have no time of day, so that an event's time is its
    step in seconds, and equal records give equal bytes.

    Raises:
        InputError: if the release has no records, or the package ``tensorboard`` is missing, or
            if ``out`` holds files that this package did not write.
    """
    require_extra("tensorboard", "Writing TensorBoard's files")
    by_file = {
        f"{require_name('SAE id', str(sae_id), slashes=True)}/{EVENTS}": rows
        for sae_id, rows in load_records(release).groupby("sae_id", sort=True)
    }
    open_owned(out, KIND).claim(by_file)
    for name, rows in by_file.items():
        _write_events(out / name, _events(rows))
    return [out / name for name in by_file]


def _write_events(path: Path, events: Iterator[bytes]) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    with atomic_path(path) as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event)


def _events(rows: pd.DataFrame) -> Iterator[bytes]:
    """Yield the header that TensorBoard expects, then one event per row, as protobuf."""
    # protobuf makes the classes when the modules are imported
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

    header = Event(wall_time=0.0, file_version="brain.Event:2")
    yield header.SerializeToString(deterministic=True)
    for row in rows.to_dict("records"):
        values = [
            Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(row)
        ]
        step = int(row["step"])
        if values:
            summary = Summary(value=values)
            event = Event(wall_time=float(step), step=step, summary=summary)
            yield event.SerializeToString(deterministic=True)


def _scalars(row: dict[Any, Any]) -> Iterator[tuple[str, float]]:
    """Yield the metrics of a row that are there; a metric that is not finite is left out."""
    for tag, value in row.items():
        is_number = tag not in _NOT_SCALARS and isinstance(value, int | float)
        if is_number and math.isfinite(value):
            yield str(tag), float(value)
