"""Shipped JSON schemas are those of the result classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.registry import RECIPES
from eval_recipes.results.schemas import schema_text
from eval_recipes.running import evaluation
from eval_recipes.running.evaluation import schema_files
from saereg_plugin.errors import InputError
from saereg_plugin.sweeps import config as sweeps


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_schemas_are_current(name: str) -> None:
    for path, cls in schema_files(name).items():
        assert path.read_text(encoding="utf-8") == schema_text(cls)


def test_shipped_schema_of_sweeps_is_current() -> None:
    assert sweeps.SCHEMA.read_text(encoding="utf-8") == sweeps.schema_text()


def test_the_command_writes_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = {
        tmp_path / path.name: cls for path, cls in schema_files("autointerp").items()
    }
    assert len(shipped) == 3
    monkeypatch.setattr(evaluation, "schema_files", lambda _: shipped)
    monkeypatch.setattr(sweeps, "SCHEMA", tmp_path / sweeps.SCHEMA.name)
    run = CliRunner().invoke
    stale = run(app, ["schemas", "--check"])
    assert stale.exit_code == 1 and "not current" in stale.output
    assert run(app, ["schemas", "--write"]).exit_code == 0
    for path, cls in shipped.items():
        assert path.read_text(encoding="utf-8") == schema_text(cls)
    assert sweeps.SCHEMA.read_text(encoding="utf-8") == sweeps.schema_text()
    assert run(app, ["schemas", "--check"]).exit_code == 0
    both = run(app, ["schemas", "--check", "--write"])
    assert isinstance(both.exception, InputError)
