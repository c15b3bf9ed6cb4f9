"""Only our own files are replaced or removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path, recover, write_text
from saereg_plugin.owned_folder import MARK, open_owned, require_owned


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a home folder next to it."""
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "here"


def test_folder_of_the_user_is_refused_and_untouched(apart: Path) -> None:
    (apart / "out").mkdir()
    (apart / "out" / "thesis").write_text("mine")
    with pytest.raises(InputError, match="did not write: 'thesis'"):
        open_owned(apart / "out", "release")
    assert [path.name for path in (apart / "out").iterdir()] == ["thesis"]


@pytest.mark.parametrize("name", ["", ".", "/", "~", "../here"])
def test_places_that_a_slip_names_are_refused(apart: Path, name: str) -> None:
    folder = Path(name).expanduser()
    with pytest.raises(InputError, match="is the (current|root|home) folder"):
        require_owned(folder, "release")
    assert list(apart.iterdir()) == []


def test_another_kind_is_refused(apart: Path) -> None:
    open_owned(apart / "out", "results")
    with pytest.raises(InputError, match="holds 'results'.*holds 'release'"):
        require_owned(apart / "out", "release")


def test_listed_files_are_removed_and_others_stay(apart: Path) -> None:
    owned = open_owned(apart / "out", "release")
    owned.claim(["a/one", "a/b/two", "three"])
    for name in ("a/one", "a/b/two", "three", "a/users"):
        write_text(apart / "out" / name, "x")
    owned.remove(["a/one", "a/b/two"])
    left = sorted(path.name for path in (apart / "out").rglob("*") if path.is_file())
    assert [name for name in left if not name.startswith(".")] == ["three", "users"]
    assert not (apart / "out" / "a" / "b").exists()
    assert owned.files() == {"three"}
    # a file that is not in the list is not removed, whoever asks
    owned.remove(["a/users"])
    assert (apart / "out" / "a" / "users").exists()


def test_a_file_of_the_user_is_not_claimed(apart: Path) -> None:
    owned = open_owned(apart / "out", "release")
    (apart / "out" / "README.md").write_text("mine")
    with pytest.raises(InputError, match="README.md' was not written by this package"):
        owned.claim(["release.yaml", "README.md"])
    assert owned.files() == frozenset()


def test_linked_parts_and_names_outside_are_refused(apart: Path) -> None:
    owned = open_owned(apart / "out", "release")
    (apart / "elsewhere").mkdir()
    (apart / "out" / "saes").symlink_to(apart / "elsewhere")
    with pytest.raises(InputError, match="saes' is a link"):
        owned.claim(["saes/x"])
    for name in ("../x", "/x", "a/../../x", ""):
        with pytest.raises(InputError, match="leaves the folder"):
            owned.claim([name])


def test_damaged_mark_is_named(apart: Path) -> None:
    open_owned(apart / "out", "release")
    for text in ("{", "[]", '{"kind": "release"}', '{"kind": "release", "files": [1]}'):
        (apart / "out" / MARK).write_text(text)
        with pytest.raises(InputError, match="saereg.json' is damaged"):
            require_owned(apart / "out", "release")


def test_what_a_killed_process_left_is_put_right(apart: Path) -> None:
    (apart / ".folder.0123abcd.old").mkdir()
    (apart / ".folder.0123abcd.old" / "kept").touch()
    (apart / ".folder.01234567.tmp").mkdir()
    (apart / ".bashrc.old").touch()
    (apart / ".folder2.01234567.tmp").touch()
    recover(apart / "folder")
    assert sorted(path.name for path in apart.iterdir()) == [
        ".bashrc.old",
        ".folder2.01234567.tmp",
        "folder",
    ]
    with atomic_path(apart / "folder") as temporary:
        temporary.mkdir()
    assert list((apart / "folder").iterdir()) == []
