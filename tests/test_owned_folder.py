"""Only our own files are replaced or removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path, recover, write_text
from saereg_plugin.owned_folder import MARK, OwnedFolder, open_owned, require_owned


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


def write(folder: OwnedFolder, name: str, **files: str) -> None:
    with folder.write_folder(name) as temporary:
        for file, text in files.items():
            (temporary / file).write_text(text)


def test_folder_is_replaced_file_by_file_and_the_users_stay(apart: Path) -> None:
    owned = open_owned(apart / "out", "release")
    write(owned, "a/b", one="1", two="1")
    assert owned.files() == {"a/b/one", "a/b/two"}
    (apart / "out" / "a" / "b" / "mine").write_text("mine")
    write(owned, "a/b", one="2")
    found = {p.name: p.read_text() for p in (apart / "out" / "a" / "b").iterdir()}
    assert found == {"one": "2", "mine": "mine"}
    assert owned.files() == {"a/b/one"}
    with pytest.raises(InputError, match="mine' was not written by this package"):
        write(owned, "a/b", mine="ours")
    found = {p.name: p.read_text() for p in (apart / "out" / "a" / "b").iterdir()}
    assert found == {"one": "2", "mine": "mine"}
    assert [path.name for path in (apart / "out" / "a").iterdir()] == ["b"]


def test_folder_that_a_killed_process_was_writing_goes_and_the_users_stay(
    apart: Path,
) -> None:
    owned = open_owned(apart / "out", "release")
    killed = owned.write_folder("a/b")
    half = killed.__enter__()
    (half / "one").write_text("cut")
    users = half.with_name(".b.0badc0de.tmp")
    users.mkdir()
    open_owned(apart / "out", "release").recover()
    assert not half.exists()
    assert users.is_dir()
    assert owned.files() == frozenset()


def test_abandoned_folder_is_free_but_for_the_users_files(apart: Path) -> None:
    owned = open_owned(apart / "out", "release")
    write(owned, "a/b", one="1")
    owned.abandon()
    assert list((apart / "out").iterdir()) == []


def test_list_that_names_files_elsewhere_is_damaged(apart: Path) -> None:
    owned = open_owned(apart / "out", "release")
    (apart / "precious").write_text("mine")
    (apart / "out" / MARK).write_text(
        '{"kind": "release", "files": ["a/../../precious"]}'
    )
    with pytest.raises(InputError, match="is damaged"):
        owned.remove(["a/../../precious"])
    assert (apart / "precious").exists()


def test_nothing_is_removed_through_a_link(apart: Path) -> None:
    owned = open_owned(apart / "out", "release")
    write(owned, "a", one="1")
    (apart / "out" / "a").rename(apart / "elsewhere")
    (apart / "out" / "a").symlink_to(apart / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        owned.remove(["a/one"])
    assert (apart / "elsewhere" / "one").exists()
