"""Runs that work in one results folder at the same time."""

from __future__ import annotations

import contextlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from eval_recipes.registry import load_evaluation
from eval_recipes.results.files import SUMMARY
from eval_recipes.results.folder import KIND, claimed_results
from eval_recipes.results.outdated import FILE, note_attempts
from eval_recipes.results.subject import Subject
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path
from saereg_plugin.owned_folder import folder_lock, open_owned

MINE, OTHER = (Subject("release", name, "g", 0) for name in ("mine", "other"))
CHOSEN = [load_evaluation("vocabulary")]


def test_failures_noted_at_once_are_all_kept(tmp_path: Path) -> None:
    def note(run: int) -> None:
        for number in range(10):
            path = tmp_path / f"{run}-{number}_eval_results.json"
            path.write_text("{}")
            note_attempts(tmp_path, failed={path: "no room"}, current=())

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(note, range(3)))
    assert len(json.loads((tmp_path / FILE).read_text())) == 30


@pytest.mark.parametrize("name", [SUMMARY, FILE, "vocabulary/layers.csv"])
def test_a_second_run_leaves_what_the_first_is_writing(
    tmp_path: Path, name: str
) -> None:
    writing = Event()

    def write() -> None:
        with folder_lock(tmp_path), atomic_path(tmp_path / name) as temporary:
            temporary.write_text("whole")
            writing.set()
            second.wait(0.3)

    second = Event()
    with claimed_results(tmp_path, CHOSEN, [MINE]), ThreadPoolExecutor(2) as pool:
        first = pool.submit(write)
        writing.wait()
        with claimed_results(tmp_path, CHOSEN, [OTHER]):
            second.set()
        first.result()
    assert (tmp_path / name).read_text() == "whole"


@pytest.mark.parametrize("end", [None, KeyboardInterrupt, OSError])
def test_names_that_a_run_did_not_write_are_not_ours(
    tmp_path: Path, end: type[BaseException] | None
) -> None:
    """Else a file that the user puts there later would be replaced."""
    written, unwritten = (
        f"vocabulary/release_{sae}_eval_results.json" for sae in ("mine", "other")
    )
    with (
        contextlib.suppress(KeyboardInterrupt, OSError),
        claimed_results(tmp_path, CHOSEN, [MINE, OTHER]),
    ):
        (tmp_path / written).parent.mkdir()
        (tmp_path / written).write_text("{}")
        if end is not None:
            raise end
    folder = open_owned(tmp_path, KIND)
    assert written in folder.files() and unwritten not in folder.files()
    (tmp_path / unwritten).write_text("the user's")
    with (
        pytest.raises(InputError, match="was not written by this package"),
        claimed_results(tmp_path, CHOSEN, [MINE, OTHER]),
    ):
        pass
    assert (tmp_path / unwritten).read_text() == "the user's"


def test_two_runs_of_one_sae_end_with_the_list_of_what_is_there(tmp_path: Path) -> None:
    """The first ends without its file; the second, which writes it, lists it again."""
    name = "vocabulary/release_mine_eval_results.json"
    second = claimed_results(tmp_path, CHOSEN, [MINE])
    with (
        contextlib.suppress(KeyboardInterrupt),
        claimed_results(tmp_path, CHOSEN, [MINE]),
    ):
        second.__enter__()
        raise KeyboardInterrupt
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("{}")
    second.__exit__(None, None, None)
    assert name in open_owned(tmp_path, KIND).files()
    with claimed_results(tmp_path, CHOSEN, [MINE]):
        pass
    assert (tmp_path / name).exists()


def test_what_ended_a_run_is_told_before_the_state_of_its_list(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        claimed_results(tmp_path / "out", CHOSEN, [MINE]),
    ):
        shutil.rmtree(tmp_path / "out")
        raise KeyboardInterrupt
    assert "is not current" in caplog.text
