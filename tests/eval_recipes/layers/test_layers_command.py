"""The command ``saereg-bench layers`` on a trained release and two models."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from eval_recipes.cli import app
from eval_recipes.report.figures.finding import read_further
from saereg_plugin.errors import InputError
from saereg_plugin.releases.release import Release


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["layers", *map(str, words)], catch_exceptions=False)


@pytest.fixture(scope="module")
def contrast(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sums against short sentences."""
    folder = tmp_path_factory.mktemp("contrast")
    draw = random.Random(0)
    sums = {f"{draw.randint(10, 99)} + {draw.randint(10, 99)} = " for _ in range(20)}
    words = ["cat", "river", "song", "house", "garden"]
    prose = {
        f"The {a} was near the old {b} in {draw.choice(['May', 'June'])}"
        for a in words
        for b in words
    }
    for name, lines in (("a", sums), ("b", prose)):
        (folder / f"{name}.txt").write_text("\n".join(sorted(lines)))
    return folder / "a.txt", folder / "b.txt"


@pytest.fixture(scope="module")
def tuned(calm_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with noise on all its weights, twice as much in layer 1."""
    folder = tmp_path_factory.mktemp("tuned") / "model"
    model = AutoModelForCausalLM.from_pretrained(calm_model_folder)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            size = 2e-3 if ".layers.1." in name else 1e-3
            parameter += size * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def test_the_command_scores_measures_and_injects(
    trained_release: Release,
    contrast: tuple[Path, Path],
    calm_model_folder: Path,
    tuned: Path,
    tmp_path: Path,
) -> None:
    out, model = tmp_path / "out", tmp_path / "model"
    done = run(
        *(trained_release.folder, "--contrast", *contrast, "--out", out),
        *("--latents", 5, "--permutations", 20),
        *("--task-vector", calm_model_folder, tuned),
        *("--inject", model, "--alpha", 0.5),
    )
    assert done.exit_code == 0, done.output
    record = json.loads((out / "layers.json").read_text())
    assert [row["layer"] for row in record["saes"]] == [1, 1]
    for row in record["saes"]:
        # sums and sentences share hardly a token
        assert row["score"] > 0.95 and row["p_value"] == pytest.approx(1 / 21)
        assert row["probe"] > 0.95
        assert row["l0"] == pytest.approx(16, rel=0.01)
        assert row["energy_law"] == pytest.approx(17 / 576)
        assert row["energy_random_low"] < row["energy_law"] < row["energy_random_high"]
        # the change is noise, of which no direction knows
        assert row["energy_kept"] == pytest.approx(row["energy_law"], rel=0.1)
    (on_page,) = read_further(out).found
    scores, energies, norms = on_page.part.tables
    assert len(scores.rows) == len(energies.rows) == 2
    assert len(norms.rows) == len(record["task_vector"])
    assert [row["layer"] for row in record["task_vector"]] == [0, 1, 2, 3]
    norms = [row["task_norm"] for row in record["task_vector"]]
    assert norms[1] / norms[0] == pytest.approx(2, rel=0.01)
    assert len(record["best"]) == 2 and record["n_first"] + record["n_second"] == 45
    table = pd.read_csv(out / "layers.csv")
    assert table["score"].tolist() == [row["score"] for row in record["saes"]]
    latents = pd.read_parquet(out / "latents.parquet")
    assert len(latents) == 2 * 2 * 5
    assert (latents["share_first"] > latents["share_second"]).all()
    assert (out / "layers.png").stat().st_size > 1000
    assert "0.5 times the difference in layers 1." in " ".join(done.output.split())
    assert json.loads((model / "injection.json").read_text())["layers"] == [1]
    AutoModelForCausalLM.from_pretrained(model)


def test_the_same_run_gives_the_same_result(
    trained_release: Release, contrast: tuple[Path, Path], tmp_path: Path
) -> None:
    words = (trained_release.folder, "--contrast", *contrast, "--permutations", 5)
    for name in ("one", "two", "two"):
        assert run(*words, "--out", tmp_path / name).exit_code == 0
    one, two = ((tmp_path / name / "layers.csv").read_text() for name in ("one", "two"))
    assert one == two


def test_without_a_release_the_task_vector_is_measured_and_injected(
    calm_model_folder: Path, tuned: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    done = run(
        *("--task-vector", calm_model_folder, tuned),
        *("--inject", model, "--inject-layers", "0,2-3"),
    )
    assert done.exit_code == 0, done.output
    assert "|theta|" in done.output
    assert json.loads((model / "injection.json").read_text())["layers"] == [0, 2, 3]


def test_flags_without_their_partner_are_refused(
    trained_release: Release,
    contrast: tuple[Path, Path],
    calm_model_folder: Path,
    tuned: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="Nothing to do"):
        run()
    with pytest.raises(InputError, match="--inject needs --task-vector"):
        run("--inject", tmp_path / "model")
    with pytest.raises(InputError, match="expected all three"):
        run(trained_release.folder, "--contrast", *contrast)
    with pytest.raises(InputError, match="did not write"):
        run(trained_release.folder, "--contrast", *contrast, "--out", tuned)
    pair = ("--task-vector", calm_model_folder, tuned, "--inject", tmp_path / "model")
    with pytest.raises(InputError, match="no layer 9"):
        run(*pair, "--inject-layers", "9")
    with pytest.raises(InputError, match="no best one"):
        run(*pair)
    assert not (tmp_path / "model").exists()
