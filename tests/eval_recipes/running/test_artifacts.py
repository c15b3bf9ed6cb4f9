"""Folders of what is kept between runs: one for each thing that determines it."""

from __future__ import annotations

import copy
import json
import logging
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig

from eval_recipes.chat.messages import Reply, ReplyCache
from eval_recipes.results.subject import Subject
from eval_recipes.running.artifact_space import (
    clean_artifacts,
    entries,
    existing_artifacts,
    parse_size,
    remove_down_to,
    space_note,
)
from eval_recipes.running.artifacts import (
    ArtifactFolder,
    artifact_folder,
    default_artifacts,
    open_artifacts,
    weights_hash,
)
from eval_recipes.saebench.sae_probes import data as sae_probes_data
from eval_recipes.saebench.sparse_probing import cache as sparse_probing_cache
from eval_recipes.saebench.upstream import UpstreamError, upstream
from saereg_plugin.errors import InputError
from tests.eval_recipes.running.hostile import Hostile


@pytest.fixture
def sae() -> TopKSAE:
    sae = TopKSAE(TopKSAEConfig(d_in=4, d_sae=8, k=2))
    # SAEs with learnt scalars have tensors without a dimension.
    sae.register_buffer("scale", torch.tensor(2.0))
    return sae


@pytest.fixture
def folder(tmp_path: Path) -> ArtifactFolder:
    return artifact_folder(tmp_path, "core", {"seed": 0})


def keep(folder: ArtifactFolder, name: str, content: bytes) -> Path:
    with folder.write(name) as temporary:
        temporary.write_bytes(content)
    return folder.path / name


def test_every_determinant_changes_the_folder(tmp_path: Path):
    base = {"model": "m", "seed": 0, "sizes": (1, 2)}
    first = artifact_folder(tmp_path, "core", base)
    assert artifact_folder(tmp_path, "core", dict(reversed(base.items()))) == first
    others = [
        artifact_folder(tmp_path, "core", {**base, "seed": 1}),
        artifact_folder(tmp_path, "core", {**base, "sizes": (2, 1)}),
        artifact_folder(tmp_path, "scr", base),
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        others.append(artifact_folder(tmp_path, "core", base))
    finally:
        torch.set_num_threads(threads)
    assert len({one.path for one in (first, *others)}) == 5


def test_every_weight_and_setting_changes_the_hash(sae: TopKSAE):
    known = weights_hash(sae)
    assert weights_hash(copy.deepcopy(sae)) == known
    seen = {known}
    for name, value in sae.state_dict().items():
        changed = copy.deepcopy(sae)
        with torch.no_grad():
            changed.state_dict()[name].view(-1)[-1] = value.view(-1)[-1] + 1
        seen.add(weights_hash(changed))
    other = copy.deepcopy(sae)
    other.cfg.k = 3
    seen.add(weights_hash(other))
    assert len(seen) == len(sae.state_dict()) + 2


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2])


def _flip(path: Path) -> None:
    """Change one bit; size and time of modification stay."""
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _remove(path: Path) -> None:
    path.unlink()


def _replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [_truncate, _flip, _remove, _replace_by_pipe])
def test_a_damaged_file_is_named_and_made_again(
    folder: ArtifactFolder,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
):
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_bytes(b"sound")

    file = folder.ensure("a.bin", make)
    assert folder.ensure("a.bin", make) == file
    assert len(made) == 1
    damage(file)
    with caplog.at_level(logging.WARNING):
        assert folder.ensure("a.bin", make) == file
    assert len(made) == 2
    assert file.read_bytes() == b"sound"
    (message,) = {record.getMessage() for record in caplog.records}
    assert repr(str(file)) in message and "made again" in message


def test_what_is_not_in_the_index_is_not_read(folder: ArtifactFolder):
    (folder.path / "probes.pkl").write_bytes(b"someone's")
    assert folder.read("probes.pkl") is None


@pytest.mark.parametrize(
    "index", ["", "[]", '{"files": 3}', '{"files": {"a.bin": 3}}', "[" * 100_000]
)
def test_a_damaged_index_makes_all_files_again(
    folder: ArtifactFolder, index: str, caplog: pytest.LogCaptureFixture
):
    keep(folder, "a.bin", b"1")
    (folder.path / "index.json").write_text(index)
    assert folder.read("a.bin") is None
    assert "index.json" in caplog.text and "is damaged" in caplog.text
    keep(folder, "a.bin", b"2")
    path = folder.read("a.bin")
    assert path is not None and path.read_bytes() == b"2"


def _through_upstream(folder: ArtifactFolder) -> Any:
    sae = TopKSAE(TopKSAEConfig(d_in=4, d_sae=8, k=2))
    with upstream("core", Subject("r", "s", "g", None), sae, None, seed=0):
        return torch.load(folder.require("a.pt"), weights_only=False)


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("paired.pt", sparse_probing_cache.load_paired),
        ("a_activations.pt", lambda f: sparse_probing_cache.load_activations(f, "a")),
        ("a.pt", lambda f: sae_probes_data.load_activations(f, "a")),
        ("a.pt", _through_upstream),
    ],
)
def test_a_hostile_pickle_with_the_right_hash_runs_nothing(
    folder: ArtifactFolder,
    tmp_path: Path,
    name: str,
    load: Callable[[ArtifactFolder], Any],
):
    ran = tmp_path / "core" / "ran"
    with folder.write(name) as temporary:
        torch.save(Hostile(ran), temporary)
    with pytest.raises((pickle.UnpicklingError, UpstreamError)):
        load(folder)
    assert not ran.exists()
    torch.load(folder.require(name), weights_only=False)
    assert ran.exists()


def test_a_failed_write_leaves_nothing(folder: ArtifactFolder):
    with pytest.raises(ValueError, match="no"), folder.write("a.bin") as temporary:
        temporary.write_bytes(b"half")
        raise ValueError("no")
    assert folder.read("a.bin") is None
    left = {path.name for path in folder.path.iterdir()}
    assert left == {"key.json", "index.json", ".lock"}


def _write_and_wait(path: Path, ready: Path) -> None:
    folder = ArtifactFolder(path, {})
    with folder.scratch() as scratch, folder.write("a.bin") as temporary:
        (scratch / "large").write_bytes(b"half")
        temporary.write_bytes(b"half")
        ready.touch()
        time.sleep(60)


def test_what_a_killed_process_left_is_removed_by_the_next(
    folder: ArtifactFolder, tmp_path: Path
):
    forked = multiprocessing.get_context("fork")
    ready = tmp_path / "core" / "ready"
    process = forked.Process(target=_write_and_wait, args=(folder.path, ready))
    process.start()
    while not ready.exists():
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert sum(path.suffix == ".tmp" for path in folder.path.iterdir()) == 2
    assert folder.read("a.bin") is None
    keep(folder, "a.bin", b"whole")
    left = {path.name for path in folder.path.iterdir()}
    assert left == {"key.json", "index.json", ".lock", "a.bin"}


def _ensure(path: Path, log: Path) -> None:
    def make(path: Path) -> None:
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(0.5)
        path.write_bytes(b"whole")

    folder = ArtifactFolder(path, {})
    assert folder.ensure("a.bin", make).read_bytes() == b"whole"


def test_processes_at_once_make_a_file_once(folder: ArtifactFolder, tmp_path: Path):
    forked = multiprocessing.get_context("fork")
    log = tmp_path / "core" / "log"
    processes = [
        forked.Process(target=_ensure, args=(folder.path, log)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "made\n"


def test_cleaning_leaves_what_is_not_ours(tmp_path: Path, folder: ArtifactFolder):
    keep(folder, "activations.pt", b"x")
    mine = tmp_path / "core" / "notes" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("keep")
    credentials = tmp_path / "cloud" / "account" / "key.json"
    credentials.parent.mkdir(parents=True)
    credentials.write_text('{"private_key": "x"}')
    other = folder.path.parent / "other"
    other.mkdir()
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "theirs").touch()
    unlisted = artifact_folder(tmp_path, "core", {"seed": 1}).path / "mine.txt"
    unlisted.touch()
    hostile = artifact_folder(tmp_path, "core", {"seed": 2})
    (hostile.path / "link").symlink_to(elsewhere)
    keep(hostile, "b", b"")
    files = {"../../../mine": None, "link/theirs": None, str(mine): None, "b": None}
    (hostile.path / "index.json").write_text(json.dumps({"files": files}))

    clean_artifacts(tmp_path)

    assert not folder.path.exists()
    assert mine.read_text() == "keep"
    assert credentials.is_file() and other.is_dir() and unlisted.is_file()
    assert (elsewhere / "theirs").is_file()
    assert not (hostile.path / "b").exists()


def test_cleaning_takes_replies_and_the_mark(tmp_path: Path, folder: ArtifactFolder):
    keep(folder, "a", b"x")
    reply(tmp_path, "a")
    clean_artifacts(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_others_is_neither_used_nor_cleaned(tmp_path: Path):
    key = tmp_path / "cloud" / "account" / "key.json"
    key.parent.mkdir(parents=True)
    key.touch()
    for use in (
        lambda: artifact_folder(tmp_path, "core", {}),
        lambda: clean_artifacts(tmp_path),
        lambda: open_artifacts(tmp_path),
        lambda: existing_artifacts(tmp_path),
        lambda: reply(tmp_path, "a"),
    ):
        with pytest.raises(InputError, match="did not write: 'cloud'"):
            use()
    assert [path.name for path in tmp_path.iterdir()] == ["cloud"]


def test_the_folder_of_0_1_0_in_the_cache_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "artifacts"
    old = artifact_folder(root, "absorption", {"seed": 0})
    probe = old.path / "smollm2" / "layer_4" / "probe.pth"
    probe.parent.mkdir(parents=True)
    probe.write_bytes(b"pickle")
    reply(root, "a")
    (root / ".saereg.json").unlink()
    with pytest.raises(InputError):
        open_artifacts(root)

    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path))
    assert open_artifacts(default_artifacts()) == root
    assert old.read("smollm2/layer_4/probe.pth") is None
    assert {entry.eval: entry.size for entry in entries(root)}["absorption"] == 6
    kept, _ = remove_down_to(root, 0, replies=False)
    assert [entry.eval for entry in kept] == ["replies"]
    assert not old.path.exists()


def reply(root: Path, text: str) -> None:
    ReplyCache(root).put(Reply(text[0] * 64, text, 1, 1))


def test_the_least_recently_used_go_first_and_replies_only_when_asked(tmp_path: Path):
    folders = [artifact_folder(tmp_path, "core", {"hook": n}) for n in range(3)]
    for number, folder in enumerate(folders):
        keep(folder, "a", bytes(1000))
        # used on days 1, 0, 2
        os.utime(folder.path / "index.json", (0, 86400 * (1, 0, 2)[number]))
    reply(tmp_path, "a")
    shown = [(entry.eval, entry.about, entry.size) for entry in entries(tmp_path)]
    assert shown[1:] == [("core", str(n), 1000) for n in (2, 0, 1)]
    assert shown[0][0] == "replies"

    kept, removed = remove_down_to(tmp_path, 2500, replies=False)
    assert [entry.about for entry in removed] == ["1"]
    assert not folders[1].path.exists() and len(kept) == 3
    kept, removed = remove_down_to(tmp_path, 0, replies=False)
    assert [entry.eval for entry in kept] == ["replies"]
    kept, removed = remove_down_to(tmp_path, 0, replies=True)
    assert kept == [] and [entry.eval for entry in removed] == ["replies"]


def test_many_bytes_are_told(tmp_path: Path):
    assert space_note(tmp_path) == ""
    keep(artifact_folder(tmp_path, "core", {"hook": "a"}), "a", bytes(3000))
    assert space_note(tmp_path) == ""
    assert space_note(tmp_path, 2000).startswith("3.0 kB are kept between runs in ")


def test_using_a_folder_makes_it_the_most_recent(tmp_path: Path):
    for seed in range(2):
        keep(artifact_folder(tmp_path, "core", {"model": str(seed)}), "a", b"1")
    for entry in entries(tmp_path):
        assert entry.folder is not None
        os.utime(entry.folder.path / "index.json", (0, 0))
    artifact_folder(tmp_path, "core", {"model": "1"})
    assert entries(tmp_path)[0].about == "1"


def test_a_folder_in_use_stays(tmp_path: Path, folder: ArtifactFolder):
    keep(folder, "a", b"1")
    with folder.locked():
        kept, removed = remove_down_to(tmp_path, 0, replies=False)
    assert len(kept) == 1 and removed == []
    assert folder.read("a") is not None


@pytest.mark.parametrize(
    "text", ["", "20", "GB", "-1GB", "1e3GB", "20 Gb b", "nan", "1XB", "1,5GB", "٣GB"]
)
def test_sizes_without_meaning_are_refused(text: str):
    with pytest.raises(InputError, match="such as 20GB"):
        parse_size(text)


def test_sizes():
    sizes = {"20GB": 20 * 10**9, "1.5 kib": 1536, "0": 0, ".5TB": 5 * 10**11, "7b": 7}
    assert {text: parse_size(text) for text in sizes} == sizes
