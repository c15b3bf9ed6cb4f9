"""Regularisers and mechanics of installed packages and of one's own modules."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.tables.description import describe
from eval_recipes.tables.listing import sections
from saereg_plugin import InputError, RegularizerConfig
from saereg_plugin.config import config_from
from saereg_plugin.registry import (
    ARCHITECTURES,
    MECHANICS,
    REGULARIZERS,
    import_own,
    training_classes,
)
from tests.cut_model import cut_model
from tests.sweeps.tiny import HOOK

RIDGE = '''
from dataclasses import dataclass

import saereg_plugin as sr


@sr.register_regularizer("{name}")
@dataclass(frozen=True, kw_only=True)
class Ridge(sr.RegularizerConfig):
    """Squared decoder weights."""

    needs_all_pre_activations = False

    def build(self, sae_cfg, *, label, seed):
        return RidgeModule(label=label)


class RidgeModule(sr.Component):
    def loss(self, step):
        return step.sae.W_dec.square().sum()
'''
CALM = '''
from dataclasses import dataclass

import saereg_plugin as sr


@sr.register_mechanic("plugin_calm")
@dataclass(frozen=True, kw_only=True)
class Calm(sr.MechanicConfig):
    """Does nothing."""

    def build(self, sae_cfg, *, seed):
        return sr.Component(label=self.name)
'''
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "plugged"
version = "1.0"

[tool.setuptools]
packages = ["plugged"]

[project.entry-points."saereg_plugin.regularizers"]
plugin_ridge = "plugged.ridge:Ridge"
plugin_broken = "plugged.broken"
plugin_silent = "plugged"

[project.entry-points."saereg_plugin.mechanics"]
plugin_calm = "plugged.calm"

[project.entry-points."saereg_plugin.architectures"]
plugin_topk = "plugged.broken"
"""
MODULES = {
    "__init__": "",
    "ridge": RIDGE.format(name="plugin_ridge"),
    "calm": CALM,
    "broken": "raise OSError('no\\nlicence')",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment into which pip installed a package with entry points."""
    source = tmp_path_factory.mktemp("source")
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "plugged").mkdir()
    for name, text in MODULES.items():
        (source / "plugged" / f"{name}.py").write_text(text)
    target = tmp_path_factory.mktemp("site")
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    command = (sys.executable, "-m", "pip", "install", "--quiet", *offline)
    subprocess.run([*command, "--target", target, source], check=True, timeout=300)
    return target


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package on the path, none of it imported yet."""
    monkeypatch.syspath_prepend(str(site))
    tables = (REGULARIZERS, MECHANICS, ARCHITECTURES)
    for table in tables:
        monkeypatch.setattr(table, "_is_loaded", False)
        monkeypatch.setattr(table, "_left_out", {})
        monkeypatch.setattr(table, "_entries", dict(table._entries))
    yield site
    for name in [name for name in sys.modules if name.split(".")[0] == "plugged"]:
        del sys.modules[name]


@pytest.mark.usefixtures("installed")
def test_a_name_of_this_package_is_found_without_importing_others() -> None:
    assert REGULARIZERS["weight_penalty"].name == "weight_penalty"
    assert REGULARIZERS.registered("plugin_ridge") is None
    assert "plugged.ridge" not in sys.modules
    assert "plugin_ridge" in REGULARIZERS
    assert "plugged.ridge" in sys.modules


@pytest.mark.usefixtures("installed")
def test_a_package_that_cannot_be_loaded_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert "plugin_ridge" in list(REGULARIZERS)
        assert "plugin_broken" not in REGULARIZERS
        cause = "It is of package 'plugged': OSError: no licence."
        with pytest.raises(InputError, match=f"'plugin_topk'. {cause}"):
            training_classes("plugin_topk")
        with pytest.raises(InputError, match=f"'plugin_broken'. {cause}"):
            config_from({"name": "plugin_broken"}, RegularizerConfig, REGULARIZERS)
        with pytest.raises(InputError, match=f"cannot be loaded. {cause}"):
            describe("plugin_broken")
    assert [record.getMessage() for record in caplog.records] == [
        "Entry point saereg_plugin.regularizers:plugin_broken = plugged.broken of package "
        "'plugged' is left out: OSError: no licence.",
        "Entry point saereg_plugin.regularizers:plugin_silent = plugged of package 'plugged' is "
        "left out: it registers no 'plugin_silent'.",
        "Entry point saereg_plugin.architectures:plugin_topk = plugged.broken of package "
        "'plugged' is left out: OSError: no licence.",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_components_of_an_installed_package_are_listed_and_trained(
    tmp_path: Path,
) -> None:
    rows = {row[0]: row[1] for rows in sections().values() for row in rows}
    assert rows["plugin_ridge"] == "Squared decoder weights. (package plugged)"
    assert rows["plugin_calm"] == "Does nothing. (package plugged)"
    # a module without a docstring
    assert rows["plugin_broken"] == "of the package plugged"
    assert "plugged.ridge" not in sys.modules
    listed = CliRunner().invoke(app, ["list"]).output
    assert "plugin_ridge" in listed
    assert "plugin_calm" in listed
    _train(tmp_path, "--regularizer", "plugin_ridge=0.5", "--mechanic", "plugin_calm")
    assert _losses(tmp_path / "out/records/plugin_ridge-0.5-seed0.jsonl") > 0


@pytest.mark.slow
def test_a_regulariser_of_ones_own_is_imported_and_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(REGULARIZERS, "_entries", dict(REGULARIZERS._entries))
    monkeypatch.setattr(sys, "path", list(sys.path))
    own = tmp_path / "own_ridge.py"
    own.write_text(RIDGE.format(name="plugin_ridge"))
    _train(tmp_path, "--import", str(own), "--regularizer", "plugin_ridge=0.5")
    assert _losses(tmp_path / "out/records/plugin_ridge-0.5-seed0.jsonl") > 0
    # again, as the command that resumes does
    import_own(str(own))


def test_a_module_of_the_current_folder_is_imported_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(REGULARIZERS, "_entries", dict(REGULARIZERS._entries))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "ridge_by_name.py").write_text(RIDGE.format(name="ridge_by_name"))
    monkeypatch.chdir(tmp_path)
    import_own("ridge_by_name")
    assert REGULARIZERS["ridge_by_name"].__module__ == "ridge_by_name"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("no_such_module_here", "ModuleNotFoundError: No module named 'no_such"),
        ("nowhere/own.py", "FileNotFoundError"),
        ("broken.py", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, message: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("1 / 0")
    with pytest.raises(InputError) as caught:
        import_own(module)
    assert f"--import {module!r} fails ({message}" in str(caught.value)


def _train(folder: Path, *arguments: str) -> None:
    """Train two steps of one SAE."""
    result = CliRunner().invoke(
        app,
        [
            "train",
            *("--model", str(cut_model()), "--hook", HOOK, "--d-sae", "64", "--k", "4"),
            *("--tokens", "512", "--batch-size", "256", "--seed", "0"),
            *("--device", "cpu", "--out", str(folder / "out"), *arguments),
        ],
    )
    assert result.exit_code == 0, (result.output, result.exception)
    assert "Trains 1 SAE for" in result.output
    assert "No regulariser acts" not in result.output


def _losses(record: Path) -> float:
    """The plugin's loss in the first step."""
    first = json.loads(record.read_text().splitlines()[0])
    return first["losses/plugin_ridge"]
