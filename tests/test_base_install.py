"""A base install trains, loads and lists; commands that need more say what."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval_recipes.cli import app
from saereg_plugin import machine
from saereg_plugin.errors import InputError
from saereg_plugin.sources import corpora, models, probe_texts

HIDDEN = sorted({name for names in machine.EXTRAS.values() for name in names})
KEPT = (
    *("scipy", "statsmodels", "tenacity", "plotly", "httpcore", "matplotlib"),
    *("jinja2", "markupsafe"),
)
"""Packages that SAELens or its own dependencies bring, or import where they are there."""
BASE = f"""
import sys
for name in {[name for name in HIDDEN if name not in KEPT]!r}:
    # importing it fails as if it were not installed
    sys.modules[name] = None
from typer.testing import CliRunner
import saereg_plugin.metrics.matching
import saereg_plugin.presets
import saereg_plugin.sweeps
from eval_recipes.cli import app
for arguments in (["--help"], ["run", "--help"], ["train", "--help"], ["list"], ["doctor"]):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code in (0, 1), (arguments, result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit), arguments
print(CliRunner().invoke(app, ["list"]).output)
import eval_recipes
from saereg_plugin.errors import InputError
try:
    eval_recipes.load_results
except InputError as error:
    print(error)
"""


@pytest.mark.slow
def test_base_packages_suffice_to_train_load_and_list(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", BASE],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    for word in ("regularized_topk", "weight_penalty", "cross_seed"):
        assert word in ran.stdout
    assert (
        "eval_recipes.load_results needs the packages of the extra 'bench'"
        in ran.stdout
    )


def test_versions_leave_out_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "_PACKAGES", ("torch", "no-such-package"))
    assert set(machine.versions()) == {"python", "torch"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--sae-release", "no-such-release"],
        ["table", "no-such-results"],
        ["plot", "no-such-results"],
        ["show", "steering", "--latent", "0"],
        ["speed"],
        ["schemas"],
        ["artifacts"],
        ["demo", "--out", "no-such-folder"],
        ["study", "mnist", "--out", "no-such-folder"],
        ["study", "steering", "--out", "no-such-folder"],
        ["study", "temporal", "--out", "no-such-folder"],
    ],
)
def test_a_command_names_the_extra_that_it_needs(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine.sys, "version_info", (3, 12, 1))
    monkeypatch.setitem(sys.modules, "sae_bench", None)
    result = CliRunner().invoke(app, arguments)
    name = " ".join(arguments[: 2 if arguments[0] in ("show", "study") else 1])
    assert isinstance(result.exception, InputError), result.output
    assert str(result.exception) == (
        f"`saereg-bench {name}` needs the packages of the extra 'bench' (sae_bench is not "
        'installed); run `pip install "saereg-plugin[bench]"`.'
    )
    assert list(tmp_path.iterdir()) == []


def test_a_python_without_sae_bench_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.sys, "version_info", (3, 13, 0))
    monkeypatch.setitem(sys.modules, "sae_bench", None)
    with pytest.raises(InputError, match="needs numpy < 2 and so Python 3.10 to 3.12"):
        machine.require_extra("bench", "`saereg-bench run`")


def test_embedded_data_name_the_extra_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    wanted = r"'offline' \(zstandard is not installed\); run `pip install"
    with pytest.raises(InputError, match=f"The corpus 'embedded' needs .* {wanted}"):
        corpora.ensure("embedded")
    with pytest.raises(InputError, match=f"The embedded model .* needs .* {wanted}"):
        models.ensure("smollm2-135m-instruct")
    assert not [path for path in tmp_path.rglob("*.parquet")]


def test_a_report_of_pip_that_changes_a_package_is_refused(tmp_path: Path) -> None:
    """The check of ``.ci/run base``, on reports as ``pip --report`` writes them."""
    script = Path(__file__).parents[1] / ".ci" / "beside.py"
    for name, status in (("no-such-package", 0), ("numpy", 1)):
        report = tmp_path / f"{name}.json"
        item = {"metadata": {"name": name, "version": "99.0"}}
        report.write_text(json.dumps({"install": [item]}))
        ran = subprocess.run(
            [sys.executable, script, report],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == status
        assert (
            f"The base install changes numpy {version('numpy')} -> 99.0" in ran.stderr
        ) == (status == 1)


def test_texts_of_the_wheel_are_those_of_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = probe_texts.files()
    monkeypatch.setitem(sys.modules, "sae_probes", None)
    read = probe_texts.files()
    assert list(read) == list(installed)
    assert len(read) > 100
    for name in list(read)[::40]:
        assert read[name].read_bytes() == installed[name].read_bytes()
    assert probe_texts.read(read[name]).equals(probe_texts.read(installed[name]))
