"""Reader of the files that Weights & Biases writes offline."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_HEADER = 7
_BLOCK = 2**15


@dataclass
class WrittenRun:
    """One file of a run."""

    id: str = ""
    name: str = ""
    project: str = ""
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    steps: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Logged values by step."""
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    """Files by name of the artifact."""
    exit_code: int | None = None


def read_runs(folder: Path) -> dict[str, list[WrittenRun]]:
    """Every run under a folder by name, its files in the order in which they were begun."""
    found: dict[str, list[WrittenRun]] = {}
    for path in sorted(folder.rglob("*.wandb"), key=lambda p: p.stat().st_mtime_ns):
        run = _read_run(path)
        found.setdefault(run.name, []).append(run)
    return found


def _read_run(path: Path) -> WrittenRun:
    run = WrittenRun()
    for content in _records(path.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name = record.run.run_id, record.run.display_name
            run.project, run.group = record.run.project, record.run.run_group
            run.config = {
                item.key: json.loads(item.value_json)
                for item in record.run.config.update
            }
        if kind == "history":
            values = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            run.steps.setdefault(values["_step"], {}).update(values)
        if kind == "artifact":
            names = [entry.path for entry in record.artifact.manifest.contents]
            run.artifacts[record.artifact.name] = sorted(names)
        if kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format."""
    assert data[:4] == b":W&B"
    at, parts = _HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        if kind == 0:
            at += left
            continue
        parts += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        # 1 is a whole record; 2, 3 and 4 are the first, a middle and the last part
        if kind in (1, 4):
            yield parts
            parts = b""
