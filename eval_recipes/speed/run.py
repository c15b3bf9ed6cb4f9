"""Suites of speed measurements and their table."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch

from eval_recipes.speed.measurement import Row, SpeedConfig, matmul_rate
from saereg_plugin import machine
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.files import read_json, recover, require_writable, write_json

Suite = Callable[[SpeedConfig], Iterator[Row]]


def _suite(module: str, function: str) -> Suite:
    """Return a suite that loads its module, with heavy imports, only when it runs."""

    def rows(config: SpeedConfig) -> Iterator[Row]:
        found = import_module(f"eval_recipes.speed.{module}")
        return getattr(found, function)(config)

    return rows


SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        "training": _suite("training", "training_rows"),
        "memory": _suite("training", "memory_rows"),
        "variants": _suite("training", "variant_rows"),
        "growth": _suite("training", "growth_rows"),
        "streams": _suite("training", "stream_rows"),
        "evaluations": _suite("evaluations", "evaluation_rows"),
        "matching": _suite("matching", "matching_rows"),
        "matching-large": _suite("matching", "large_rows"),
        "steering": _suite("steering", "steering_rows"),
        "activations": _suite("activations", "activation_rows"),
        "screening": _suite("screening", "screening_rows"),
        "dead": _suite("dead_latents", "dead_rows"),
        "heldout": _suite("heldout", "heldout_rows"),
    }
)
"""Suites by name; each yields its rows as they are measured."""

BY_NAME_ONLY = frozenset({"evaluations", "matching", "matching-large", "heldout"})
"""Suites of a quarter of an hour or more, or of a release, which only run when named."""


def chosen_suites(names: Iterable[str]) -> list[str]:
    """
    Return the suites to run; without names all but the very long ones.

    Raises:
        InputError: for an unknown name, with the nearest one.
    """
    chosen = list(names) or [name for name in SUITES if name not in BY_NAME_ONLY]
    for name in chosen:
        if name not in SUITES:
            raise InputError(f"Unknown speed suite {name!r}. {suggest(name, SUITES)}")
    return chosen


_WRITTEN_BY = "saereg-bench speed"


def require_own_file(out: Path) -> None:
    """
    Refuse a file that ``run_speed`` may not write; make its folder if need be.

    Raises:
        InputError: if there is a file that it did not write, a folder or a link, or no file
            can be written.
    """
    remedy = "Choose another --out, the name of a new file such as 'speed.json'."
    if os.path.islink(out) or os.path.isdir(out):
        kind = "link" if os.path.islink(out) else "folder"
        raise InputError(f"{str(out)!r} is a {kind}; expected a JSON file. {remedy}")
    if os.path.exists(out) and not _is_own(out):
        raise InputError(
            f"File {str(out)!r} was not written by this command and would be replaced. {remedy}"
        )
    require_writable(out.parent)


def _is_own(path: Path) -> bool:
    """Return whether a file is JSON that ``run_speed`` wrote."""
    try:
        found = read_json(path, remedy="")
    except InputError:
        return False
    return isinstance(found, dict) and found.get("written_by") == _WRITTEN_BY


def run_speed(
    config: SpeedConfig, suites: Iterable[str] = (), *, out: Path | None = None
) -> pd.DataFrame:
    """
    Run suites and return their rows as a table.

    ``out`` is written anew after every row, so that an interrupted run keeps what it measured.

    Raises:
        InputError: for an unknown suite, a release that cannot be matched, or a file that
            this function did not write.
    """
    chosen = chosen_suites(suites)
    if config.release is not None:
        from eval_recipes.speed.matching import first_two

        first_two(config.release)
    if out is not None:
        require_own_file(out)
        # a killed run's
        recover(out)
    rows: list[Row] = []
    facts = {
        "written_by": _WRITTEN_BY,
        "date": machine.now(),
        "command": machine.command(),
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "product_gflops": {
            str(dtype).removeprefix("torch."): matmul_rate(dtype, device=config.device)
            / 1e9
            for dtype in (torch.float32, torch.bfloat16)
        },
        "config": dataclasses.asdict(config),
    }
    for name in chosen:
        for row in SUITES[name](config):
            rows.append(row)
            if out is not None:
                write_json(out, {**facts, "rows": [vars(row) for row in rows]})
    return pd.DataFrame([vars(row) for row in rows])


def formatted(row: Mapping[str, Any]) -> list[str]:
    """Return a row's cells as text: work, time, throughput, ratio, memory, share."""
    timed = pd.notna(row["seconds"])
    ratio = _or_empty(row["ratio"], "{:.2f}")
    if ratio and pd.notna(row["ratio_low"]):
        ratio += f" [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
    return [
        f"{row['suite']}: {row['case']}",
        str(row["implementation"]),
        f"{row['seconds'] * 1e3:.0f} ms (n={row['n']})" if timed else "",
        f"{row['throughput']:,.0f} {row['unit']}" if timed else "",
        ratio,
        _or_empty(row["peak_gib"], "{:.2f} GiB"),
        _or_empty(row["product_share"], "{:.0%}"),
    ]


HEADINGS = (
    "work",
    "implementation",
    "median time",
    "throughput",
    "ratio to ours",
    "peak memory",
    "share of product speed",
)


def _or_empty(value: Any, form: str) -> str:
    return form.format(value) if pd.notna(value) else ""
