"""Files are whole or absent, JSON is strict."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest

from saereg_plugin.errors import InputError, suggest, suggest_path
from saereg_plugin.files import (
    atomic_path,
    require_writable,
    sha256,
    write_json,
    write_text,
)


def test_sha256_is_that_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000
    path = tmp_path / "large"
    path.write_bytes(content)
    assert len(content) > 2 * (1 << 22)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(OSError, match="full"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_target_is_untouched_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    with atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "a").touch()
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a"]


def test_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("first", "second"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def test_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "kept").touch()
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert [path.name for path in target.iterdir()] == ["kept"]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_without_a_number_is_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": [value]})
    assert list(tmp_path.iterdir()) == []


def test_file_in_the_way_makes_a_folder_not_writable(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="out/deep' is not writable"):
        require_writable(tmp_path / "out" / "deep")
    with pytest.raises(InputError, match=r"out' is not writable \(File exists\)"):
        require_writable(tmp_path / "out")


def test_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = require_writable(tmp_path / "a" / "b")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("cros_seed", ["core", "cross_seed"], "Did you mean 'cross_seed'?"),
        ("zzz", ["b", "a"], "Known: 'a', 'b'."),
        ("zzz", [], "None are known."),
        ("zzz", [f"{i:02}" for i in range(14)], " and 2 more."),
    ],
)
def test_hint_names_the_nearest_or_all(
    name: str, options: list[str], hint: str
) -> None:
    assert suggest(name, options).endswith(hint)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("demo/relase", "Did you mean 'demo/release'?"),
        ("dmeo/relase/sweep.yml", "Did you mean 'demo/release/sweep.yaml'?"),
        ("./demo/relase", "Did you mean 'demo/release'?"),
        ("demo/release", ""),
        ("demo/xyz", ""),
        ("demo/release/sweep.yaml/x", ""),
        ("openai-community/gpt2", ""),
    ],
)
def test_hint_names_the_neighbour_of_a_misspelt_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, hint: str
) -> None:
    (tmp_path / "demo/release").mkdir(parents=True)
    (tmp_path / "demo/release/sweep.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert suggest_path(path) == hint
    absolute = hint.replace("'demo", f"'{tmp_path}/demo")
    assert suggest_path(tmp_path / path) == absolute
