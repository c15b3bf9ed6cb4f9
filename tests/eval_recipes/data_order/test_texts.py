"""Texts and labels: what is read, and what is refused with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval_recipes.data_order.texts import Labels, read_labels, read_texts
from saereg_plugin.errors import InputError

Record = dict[str, Any]


def write(path: Path, records: list[Record]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def usual(n: int = 40) -> list[Record]:
    return [{"id": i, "text": f"text\u2028 {i}"} for i in range(n)]


def labelled(n: int = 40) -> list[Record]:
    return [{"id": i, "difficulty": i / 2, "quality": i % 2} for i in range(n)]


def test_texts_keep_their_order_and_equal_ones_are_a_group(tmp_path: Path) -> None:
    records = usual(30)
    records[4]["text"] = records[20]["text"]
    found = read_texts(write(tmp_path / "texts.jsonl", records))
    assert found.ids == tuple(map(str, range(30)))
    assert found.texts[7] == "text\u2028 7"
    assert len(set(found.groups.tolist())) == 29
    assert found.groups[4] == found.groups[20]


def test_groups_are_those_of_the_file(tmp_path: Path) -> None:
    records = [one | {"group": one["id"] % 3} for one in usual()]
    found = read_texts(write(tmp_path / "texts.jsonl", records))
    assert found.groups.tolist() == [i % 3 for i in range(40)]


def _with(place: int, **changes: Any) -> Callable[[list[Record]], None]:
    def change(records: list[Record]) -> None:
        records[place].update(changes)

    return change


def _without(place: int, field: str) -> Callable[[list[Record]], None]:
    return lambda records: records[place].pop(field)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without(3, "id"), "Line 4 of .* has no id"),
        (_with(3, id=None), "Line 4 of .* has the id None"),
        (_with(3, id=True), "Line 4 of .* has the id True"),
        (_with(3, id=" "), "Line 4 of .* has the id ' '"),
        (_with(3, id="2"), "Line 4 of .* has the id '2', as line 3 of"),
        (_without(3, "text"), "Line 4 of .* has the text None"),
        (_with(3, text=" \n"), r"Line 4 of .* has the text ' \\n'"),
        (_with(3, text=7), "Line 4 of .* has the text 7"),
        (_with(3, text="\ud800"), "expected text in UTF-8"),
        (_with(3, group="a"), "a group on 1 of 40 lines"),
        (lambda records: records.__delitem__(slice(19)), "has 21 texts|"),
        (lambda records: records.__delitem__(slice(21)), "has 19 texts"),
    ],
)
def test_unusable_texts_are_refused(
    tmp_path: Path, change: Callable[[list[Record]], None], said: str
) -> None:
    records = usual()
    change(records)
    path = write(tmp_path / "texts.jsonl", records)
    if said.endswith("|"):
        assert len(read_texts(path)) == 21
        return
    with pytest.raises(InputError, match=said):
        read_texts(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{'id': 1}", "Line 41 of .* is no JSON"),
        ('{"id": 1, "text": NaN}', "NaN is not JSON"),
        ("[1, 2]", r"Line 41 of .* is \[1, 2\]"),
        ("[" * 100_000, "Line 41 of .* is no JSON"),
    ],
)
def test_lines_that_are_no_objects_are_refused(
    tmp_path: Path, line: str, said: str
) -> None:
    path = write(tmp_path / "texts.jsonl", usual())
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=said):
        read_texts(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_texts(tmp_path / "nothing.jsonl")


def _labels(tmp_path: Path, records: list[Record], **given: Any) -> Labels:
    texts = read_texts(write(tmp_path / "texts.jsonl", usual()))
    return read_labels(write(tmp_path / "labels.jsonl", records), texts, **given)


def test_labels_go_to_their_texts_in_any_order(tmp_path: Path) -> None:
    records = list(reversed(labelled()))[:30]
    records[0] |= {"quality": True, "difficulty": None}
    del records[1]["quality"]
    found = _labels(tmp_path, records)
    expected = [np.nan] * 10 + [i / 2 for i in range(10, 39)] + [np.nan]
    np.testing.assert_array_equal(found.difficulty, expected)
    assert found.quality[39] == 1 and np.isnan(found.quality[[5, 38]]).all()


def test_labels_may_have_other_names(tmp_path: Path) -> None:
    records = [{"id": i, "steps": i, "quality": "x"} for i in range(40)]
    found = _labels(tmp_path, records, difficulty="steps", quality="none")
    assert found.difficulty.tolist() == list(range(40))
    assert np.isnan(found.quality).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without(3, "id"), "Line 4 of .* has no id"),
        (_with(3, id=77), "Line 4 of .* has the id 77, which no text has"),
        (_with(3, id=2), "Line 4 of .* has the id '2', as line 3"),
        (_with(3, difficulty="3"), "difficulty = '3'; expected a finite number"),
        (_with(3, difficulty=True), "difficulty = True; expected a finite number"),
        (_with(3, quality=0.5), "quality = 0.5; expected 1 or true"),
        (_with(3, quality="good"), "quality = 'good'; expected 1 or true"),
        (
            lambda records: [one.update(difficulty=1) for one in records],
            "the same difficulty",
        ),
        (
            lambda records: [one.pop("difficulty") for one in records[19:]],
            "labels 19 texts of 19 groups with difficulty",
        ),
        (
            lambda records: [
                one.update(quality=int(i > 8)) for i, one in enumerate(records)
            ],
            r"labels 9 texts of 9 groups with quality \(bad\)",
        ),
        (
            lambda records: [one.update(quality=1) for one in records],
            r"labels 0 texts of 0 groups with quality \(bad\)",
        ),
        (
            lambda records: [
                (one.pop("quality"), one.update(difficult=one.pop("difficulty")))
                for one in records
            ],
            "no label in 'difficulty' or 'quality'.*Did you mean 'difficult'",
        ),
    ],
)
def test_unusable_labels_are_refused(
    tmp_path: Path, change: Callable[[list[Record]], Any], said: str
) -> None:
    records = labelled()
    change(records)
    with pytest.raises(InputError, match=said):
        _labels(tmp_path, records)


def test_labels_of_few_groups_are_refused(tmp_path: Path) -> None:
    records = [one | {"group": one["id"] % 9} for one in usual()]
    texts = read_texts(write(tmp_path / "texts.jsonl", records))
    with pytest.raises(InputError, match="40 texts of 9 groups with difficulty"):
        read_labels(write(tmp_path / "labels.jsonl", labelled()), texts)


def test_nan_in_labels_is_refused(tmp_path: Path) -> None:
    records: list[Record] = labelled()
    records[5]["difficulty"] = float("nan")
    with pytest.raises(InputError, match="Line 6 of .*NaN is not JSON"):
        _labels(tmp_path, records)
