"""Parquet tables that are stored next to a result."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sae_bench.evals.base_eval_output import BaseEvalOutput

from eval_recipes.results.files import read_results, result_text
from eval_recipes.results.reading import SUFFIX, read_result
from eval_recipes.results.subject import Subject
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path, read_regular, sha256

_MAX_BYTES = 1 << 34


@dataclass(frozen=True)
class StoredTable:
    """
    A written table that is not yet in its place.

    Attributes:
        path: temporary path.
        about: ``file``, ``rows`` and ``sha256``, for the result.
        further: the same of further tables, by the ending of their name.
    """

    path: Path
    about: dict[str, Any]
    further: Mapping[str, dict[str, Any]] = field(default_factory=dict[str, Any])


def side_path(result: Path, ending: str) -> Path:
    """
    Return the path of a file next to a result.

    >>> side_path(Path("core/run_k32_eval_results.json"), "_texts.parquet").name
    'run_k32_texts.parquet'
    """
    return result.with_name(result.name.removesuffix(SUFFIX) + ending)


def write_with_table(
    result: Path,
    ending: str,
    table: Any,
    build: Callable[[StoredTable], BaseEvalOutput[Any, Any, Any]],
    further: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """
    Write a result and the ``pyarrow.Table`` next to it; return the result's path.

    All are complete before one replaces an earlier one: if ``build`` raises or the disk is
    full, result and tables stay as they were. A power cut between the replacements leaves a
    mismatch that ``damaged_table`` finds.

    ``ending`` is of the table's file name; ``build`` makes the output, given the stored table;
    ``further`` tables are given by the ending of their name.

    Raises:
        NonFiniteError: see ``result_text``.
    """
    with atomic_path(result) as written, ExitStack() as tables:
        stored: dict[str, tuple[Path, dict[str, Any]]] = {}
        for name, one in {ending: table, **further}.items():
            target = side_path(result, name)
            temporary = tables.enter_context(atomic_path(target))
            pq.write_table(one, temporary)
            about = {
                "file": target.name,
                "rows": one.num_rows,
                "sha256": sha256(temporary),
            }
            stored[name] = (temporary, about)
        others = {name: stored[name][1] for name in further}
        output = build(StoredTable(*stored[ending], others))
        # the tables take their places first, when this block ends
        written.write_text(result_text(result, output), encoding="utf-8")
    return result


def tables_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return ``file``, ``rows`` and ``sha256`` of each table next to a result."""
    extra = record.get("eval_result_unstructured")
    values = extra.values() if isinstance(extra, dict) else ()
    return [
        value
        for value in values
        if isinstance(value, dict) and set(value) == {"file", "rows", "sha256"}
    ]


def damaged_table(result: Path, record: Mapping[str, Any]) -> str | None:
    """Name the table of a result that is missing or not the one it was written with."""
    for about in tables_of(record):
        path, same = _named(result, about)
        if not path.is_file():
            return f"table {path.name!r} is missing"
        if not same:
            return f"table {path.name!r} is not the one it was written with (SHA-256)"
    return None


def damaged_notes(folder: Path) -> list[str]:
    """Return one line for each result below a folder whose table is missing or damaged."""
    found = {path: damaged_table(path, record) for path, record in read_results(folder)}
    return [
        f"{path.relative_to(folder)}: its {damage}. Run it again."
        for path, damage in found.items()
        if damage is not None
    ]


def _named(result: Path, about: Mapping[str, Any]) -> tuple[Path, bool]:
    """Return the path of a table that a result names, and whether its content is the same."""
    path = result.with_name(Path(str(about["file"])).name)
    return path, path.is_file() and sha256(path) == about["sha256"]


@dataclass(frozen=True)
class SideTable:
    """
    A kind of table that an evaluation stores next to its results.

    Attributes:
        what: its name in messages.
        eval: the evaluation that writes it.
        field: where results name it.
        ending: of its file's name.
        columns: those that it must have.
    """

    what: str
    eval: str
    field: str
    ending: str
    columns: Collection[str]

    def path(self, result: Path) -> Path:
        """Return the path of the table next to a result."""
        return side_path(result, self.ending)

    def of(self, columns: Mapping[str, Any], subject: Subject, **about: Any) -> Any:
        """Return the ``pyarrow.Table`` of one SAE, which says so in its metadata."""
        names = ("release", "sae_id", "group", "seed")
        text = json.dumps({name: getattr(subject, name) for name in names} | about)
        return pa.table(columns).replace_schema_metadata({b"saereg": text.encode()})

    def read(self, path: str | Path) -> pd.DataFrame:
        """Read a table as pandas has it; see ``read_table``."""
        return self.read_table(path).to_pandas()

    def read_table(self, path: str | Path) -> Any:
        """
        Read a ``pyarrow.Table``, given its own path or that of the result that names it.

        Raises:
            InputError: if it is missing, no regular file, damaged, not what the result was
                written with, or lacks a column; or if the result names none.
        """
        path = Path(path)
        if path.name.endswith(SUFFIX):
            path = self._named_by(path)
        expected = f"expected the parquet file that the evaluation {self.eval!r} writes"
        content = read_regular(
            path,
            remedy=f"{self.what}: {expected}. Run it again.",
            max_bytes=_MAX_BYTES,
        )
        try:
            table = pq.read_table(pa.BufferReader(content))
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{self.what} {str(path)!r} cannot be read ({error}); {expected}. Run it again."
            ) from error
        missing = set(self.columns) - set(table.column_names)
        if missing:
            raise InputError(
                f"{self.what} {str(path)!r} lacks the columns {', '.join(sorted(missing))}; "
                f"{expected}."
            )
        return table

    def _named_by(self, result: Path) -> Path:
        record = read_result(result)
        extra = record.get("eval_result_unstructured")
        about = extra.get(self.field) if isinstance(extra, dict) else None
        if record["eval_type_id"] != self.eval or not isinstance(about, dict):
            raise InputError(
                f"Result {str(result)!r} names no {self.what.lower()}; expected a result of the "
                f"evaluation {self.eval!r}. Give such a result, or run the evaluation again."
            )
        path, same = _named(result, about)
        if path.is_file() and not same:
            raise InputError(
                f"{self.what} {str(path)!r} is not what {str(result)!r} was written with (its "
                f"SHA-256 differs). Run the evaluation {self.eval!r} again."
            )
        return path
