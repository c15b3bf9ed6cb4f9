"""YAML is read as people write it, within bounds."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from saereg_plugin.errors import InputError
from saereg_plugin.yaml_text import MAX_BYTES, load_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("-2E+3", -2000.0),
        ("1.5e3", 1500.0),
        ("1.e2", 100.0),
        ("12", 12),
        ("'1e-5'", "1e-5"),
        ("k1e5", "k1e5"),
        ("1e5x", "1e5x"),
    ],
)
def test_yaml_scalar(tmp_path: Path, text: str, value: object) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"x: {text}\n")
    found = read_yaml(path)["x"]
    assert (found, type(found)) == (value, type(value))


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("!!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError, match="is no YAML"):
        read_yaml(path)


def test_aliases_of_aliases_are_counted_in_full() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 10):
        levels.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    with pytest.raises(InputError, match="over 1,000,000 values"):
        load_yaml("\n".join(levels), source="The manifest")


def test_a_few_aliases_are_read() -> None:
    found = load_yaml("a: &x {k: 1}\nb: *x\nc: {<<: *x, l: 2}", source="It")
    assert found == {"a": {"k": 1}, "b": {"k": 1}, "c": {"k": 1, "l": 2}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nlr: 1\nb: {lr: 2}\nlr: 3\n", "line 4: the key 'lr' occurs twice"),
        ("a: &x [*x]", "contains itself"),
        ("[" * 150 + "]" * 150, "nested too deeply"),
        ("[" * 200_000, "nested too deeply"),
        ("a: !!python/name:os.system", "is no YAML"),
        ("a: !mine 1", "is no YAML"),
        ("d: 2026-13-45", "is no YAML"),
        ("a: [", "is no YAML"),
    ],
)
def test_yaml_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        load_yaml(text, source="The sweep")
    assert str(raised.value).startswith("The sweep")
    assert "\n" not in str(raised.value)
    # ends with a remedy
    assert re.search(r"\. [A-Z][a-z ]+[^.]*\.$", str(raised.value))


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="no regular file"):
        read_yaml(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="expected at most"):
        read_yaml(tmp_path / "large")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_yaml(tmp_path / "binary")
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path / "missing")
