"""A release trained on a language model of two small layers, and its results."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval_recipes.chat import KEY_VARIABLE
from eval_recipes.cli import app
from tests.eval_recipes.chat.openai_server import KEY, serving
from tests.faults.fault import RUN, TRAIN, Place


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    """A folder with "release" and "results", made once by the commands themselves."""
    here = tmp_path_factory.mktemp("pristine")
    names = {
        "here": here,
        "model": small_model,
        "release": here / "release",
        "results": here / "results",
    }
    for command in (f"{TRAIN} --out {{release}}", RUN):
        done = CliRunner().invoke(app, shlex.split(command.format(**names)))
        assert done.exit_code == 0, done.output
    return here


@pytest.fixture
def place(
    tmp_path: Path,
    pristine: Path,
    small_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
    """Copies of release and results in a new current folder, and a chat model."""
    for name in ("release", "results"):
        shutil.copytree(pristine / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    release, results = tmp_path / "release", tmp_path / "results"
    with serving() as judge:
        yield Place(tmp_path, small_model, release, results, judge)
