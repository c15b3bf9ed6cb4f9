"""A small release with the names of the docs, and its results."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.running.artifacts import open_artifacts
from saereg_plugin import registry
from tests.docs_run.small import RELEASE_COMMAND, RESULTS_COMMAND, smaller_words


def run_words(words: list[str]) -> None:
    """Run ``saereg-bench``; it must end with status 0."""
    result = CliRunner().invoke(app, words[1:], env={"COLUMNS": "200"})
    assert result.exit_code == 0, (words, result.output[-2000:], result.exception)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[Path]:
    """A folder with my-release, results and eval_results, made by the docs' own commands."""
    folder = tmp_path_factory.mktemp("docs")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for command in (RELEASE_COMMAND, RESULTS_COMMAND):
            run_words(smaller_words(command.split(), small_model))
    finally:
        os.chdir(before)
    shutil.copytree(folder / "results", folder / "eval_results")
    open_artifacts(folder / "artifacts")
    yield folder


@pytest.fixture
def workplace(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Path]:
    """Make the current folder a copy of ``home``."""

    def enter() -> Path:
        folder = Path(shutil.copytree(home, tmp_path / "here"))
        monkeypatch.chdir(folder)
        return folder

    return enter


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what a block registers, and the modules that it writes into its folder."""
    # the current folder is changed back after this fixture's end, which reads it
    monkeypatch.chdir(Path.cwd())
    tables: list[dict[str, Any]] = [
        registry.REGULARIZERS,
        registry.MECHANICS,
        registry.ARCHITECTURES,
        SAE_TRAINING_CLASS_REGISTRY,
    ]
    before = [dict(table) for table in tables]
    modules = set(sys.modules)
    yield
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)
    here = Path.cwd()
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).is_relative_to(here):
            del sys.modules[name]
