"""Tables next to results: replaced with their result or not at all, checked by their hash."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eval_recipes.results.files import NonFiniteError, read_result
from eval_recipes.results.sidecar import (
    SideTable,
    StoredTable,
    damaged_notes,
    damaged_table,
    side_path,
    tables_of,
    write_with_table,
)
from saereg_plugin.errors import InputError
from tests.eval_recipes.results.test_files import output

ENDING = "_rows.parquet"
ROWS = SideTable("Table", "tiny", "rows", ENDING, ("x",))


def write(folder: Path, values: list[int], **changes: float) -> Path:
    def build(table: StoredTable) -> Any:
        assert len(read(table.path)) == len(values)
        return output({"rows": table.about}, **changes)

    table = pa.table({"x": values})
    return write_with_table(folder / "a_eval_results.json", ENDING, table, build)


def read(path: Path) -> list[int]:
    return ROWS.read(path)["x"].tolist()


def test_result_and_table_belong_together(tmp_path: Path) -> None:
    result = write(tmp_path, [1, 2, 3])
    record = read_result(result)
    (about,) = tables_of(record)
    assert (about["file"], about["rows"]) == ("a_rows.parquet", 3)
    assert read(side_path(result, ENDING)) == [1, 2, 3]
    assert damaged_table(result, record) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a_eval_results.json",
        "a_rows.parquet",
    ]


def test_a_result_that_cannot_be_written_leaves_both_as_they_were(
    tmp_path: Path,
) -> None:
    write(tmp_path, [1])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(NonFiniteError):
        write(tmp_path, [1, 2], mse=math.nan)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_table_that_is_missing_or_another_one_is_named(tmp_path: Path) -> None:
    result = write(tmp_path, [1])
    table = side_path(result, ENDING)
    table.write_bytes(table.read_bytes()[:-10])
    (note,) = damaged_notes(tmp_path)
    assert note.startswith("a_eval_results.json: its table 'a_rows.parquet' is not the")
    with pytest.raises(InputError, match="cannot be read"):
        read(table)
    table.unlink()
    (note,) = damaged_notes(tmp_path)
    assert "'a_rows.parquet' is missing" in note
    with pytest.raises(InputError, match=r"cannot be read .*Run it again"):
        read(table)
    os.mkfifo(table)
    with pytest.raises(InputError, match="is no regular file"):
        read(table)
