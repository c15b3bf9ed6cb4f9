"""What ``saereg-bench train`` prints at its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eval_recipes.cli import app
from saereg_plugin.errors import InputError

pytestmark = pytest.mark.slow


def train(out: Path, model: Path, *flags: str) -> Result:
    words = ["train", "--out", str(out), "--model", str(model)]
    words += ["--hook", "blocks.0.hook_resid_post", "--d-sae", "32", "--k", "4"]
    words += ["--tokens", "1536", "--batch-size", "256", "--seed", "0,1"]
    words += ["--coefficient", "0,1e-3"]
    return CliRunner().invoke(app, [*words, *flags])


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, small_model: Path
) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("trained") / "release"
    return out, train(out, small_model, "--log-every", "4")


def test_the_last_batch_of_every_sae_is_in_a_table(
    trained: tuple[Path, Result],
) -> None:
    out, result = trained
    assert result.exit_code == 0, result.output
    names = ["none-seed0", "none-seed1", "l2-0.001-seed0", "l2-0.001-seed1"]
    for name in names:
        lines = (out / "records" / f"{name}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [record["step"] for record in records] == [1, 4, 6]
        last = records[-1]
        figures = [last["loss"], last["explained_variance"], last["l0"]]
        row = " ".join([name, *(f"{figure:.4g}" for figure in figures)])
        assert row in [" ".join(line.split()) for line in result.output.splitlines()]
    assert "sr.load_records('" in result.output


def test_a_project_that_wandb_refuses_ends_before_training(
    tmp_path: Path, small_model: Path
) -> None:
    result = train(tmp_path / "release", small_model, "--wandb", "a/b?")
    assert isinstance(result.exception, InputError)
    assert "wandb refuses the runs of project 'a/b?'" in str(result.exception)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_damaged_record_does_not_spoil_a_finished_release(
    trained: tuple[Path, Result], small_model: Path
) -> None:
    out, _ = trained
    record = out / "records" / "none-seed0.jsonl"
    content = record.read_text()
    record.write_text(content[:-9])
    result = train(out, small_model, "--log-every", "4")
    record.write_text(content)
    assert result.exit_code == 0, result.output
    assert "are trained already" in result.output
    assert "Figures of the last batch" not in result.output
    assert "Release 'release' with 4 SAEs is in" in result.output
