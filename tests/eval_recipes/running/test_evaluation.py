"""An evaluation of one's own: a folder and a line of the registry."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import jsonschema
import pytest
import torch
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.registry import RECIPES
from tests.conftest import HOOK_NAME
from tests.eval_recipes.tiny_saes import save_release, tiny_sae

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "add-an-evaluation.md"


def files_of_the_page() -> dict[str, str]:
    """The files of the documentation's example."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return {
        "__init__.py": "",
        **dict(zip(("options.py", "output.py", "main.py"), blocks)),
    }


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the evaluation, entered in the registry."""
    folder = tmp_path / "packages" / "own_norm"
    folder.mkdir(parents=True)
    for name, text in files_of_the_page().items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setitem(RECIPES, "own_norm", "own_norm.main:NormEvaluation")
    yield folder  # pyright: ignore[reportReturnType]
    for name in [name for name in sys.modules if name.startswith("own_norm")]:
        del sys.modules[name]


def test_the_commands_know_an_evaluation_by_its_line_in_the_registry(
    own: Path, tmp_path: Path, model_name: str
) -> None:
    broken = tiny_sae(model_name, HOOK_NAME, torch.zeros(576), 0)
    broken.W_dec.data[0, 0] = float("nan")
    good = tiny_sae(model_name, HOOK_NAME, torch.zeros(576), 1)
    save_release(tmp_path / "release", {"broken": broken, "good": good})
    invoke = CliRunner().invoke
    results = tmp_path / "results"
    command = [
        *("run", "--sae-release", str(tmp_path / "release"), "--out", str(results)),
        *("--evals", "own_norm", "--artifacts", str(tmp_path / "artifacts")),
    ]

    assert "how long decoder rows are" in invoke(app, ["list"]).output
    assert invoke(app, ["schemas", "--check"]).exit_code == 1
    assert invoke(app, ["schemas", "--write"]).exit_code == 0
    schema = json.loads((own / "eval_output_schema_own_norm.json").read_text())

    first = invoke(app, command)
    # one failing SAE does not stop the others, and is told
    assert first.exit_code == 1 and "is not finite" in first.output
    (path,) = (results / "own_norm").glob("*.json")
    record = json.loads(path.read_text())
    jsonschema.validate(record, schema)
    assert record["eval_result_metrics"]["norm"]["mean_norm"] == pytest.approx(
        float(good.W_dec.norm(dim=1).mean())
    )

    before = path.read_bytes()
    named = ["--sae-id", "good", "--option", "own_norm.factor=1.0"]
    assert invoke(app, [*command, *named]).exit_code == 0
    assert path.read_bytes() == before
    kept = invoke(app, [*command, *named, "--resume"])
    assert "1 of 1 results are current and kept." in kept.output
    assert path.read_bytes() == before
    assert invoke(app, [*command, *named, "--fresh"]).exit_code == 0
    assert path.read_bytes() != before
    before = path.read_bytes()
    other = ["--sae-id", "good", "--option", "own_norm.factor=2"]
    assert invoke(app, [*command, *other]).exit_code == 0
    assert path.read_bytes() != before

    refused = invoke(app, [*command, "--option", "own_norm.factor=0"])
    assert "own_norm.factor is 0; expected above 0" in str(refused.exception)
    table = ["table", str(results), "--csv", "--metric", "norm/mean_norm"]
    assert "mean_norm" in invoke(app, table).output
