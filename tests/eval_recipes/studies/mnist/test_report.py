"""The study's figures: pairs, evaluation, saved SAEs, report and command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import linear_sum_assignment

from eval_recipes import cli
from eval_recipes.studies.mnist.autoencoder import Weights, initial_weights
from eval_recipes.studies.mnist.finished import (
    KEPT_SHARES,
    RANDOM_DRAWS,
    Finished,
    evaluate,
    save_sae,
)
from eval_recipes.studies.mnist.pairs import group_runs, measure_pair
from eval_recipes.studies.mnist.plots import most_shared
from eval_recipes.studies.mnist.settings import SETTINGS, Run, Training
from eval_recipes.studies.mnist.training import train
from saereg_plugin.metrics import encoder_decoder_cosines
from saereg_plugin.sources.inputs.mnist import Images
from tests.eval_recipes.studies.mnist.few_images import few_images, write_folder
from tests.oracles import mnist_oracle

BY_NAME = {setting.name: setting for setting in SETTINGS}
TIED = BY_NAME["tied"]


@pytest.fixture(scope="module")
def images() -> Images:
    return few_images()


@pytest.fixture(scope="module")
def trained(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    training = Training(d_sae=60, epochs=6, batch_size=32)
    folder = tmp_path_factory.mktemp("trained")
    return train(Run(TIED, 0), training, images, folder).weights


def shuffled(weights: Weights, seed: int) -> tuple[Weights, torch.Tensor]:
    """The same latents in another order, and where each went."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(weights.enc), generator=generator)
    assert weights.b_enc is not None
    moved = Weights(
        weights.enc[order], weights.dec[order], weights.b_enc[order], weights.b_dec
    )
    return moved, order.argsort()


def test_the_same_latents_in_another_order_are_all_shared(trained: Weights) -> None:
    pair = measure_pair(trained, shuffled(trained, 3)[0])
    assert {name: round(figure.value, 6) for name, figure in pair.figures.items()} == {
        "mean_max_cos": 1,
        "paired": 1,
        "shared": 1,
        "shared_alive": 1,
        "mean_max_cos_decoder": 1,
        "mean_max_cos_encoder": 1,
        "paired_encoder": 1,
    }
    assert pair.as_published == pytest.approx(
        {
            "mean_max_cos": 1,
            "paired": 1,
            "shared": 1,
            "shared_alive": 1,
            "shared_alive_larger_first": 1,
        }
    )


def test_two_seeds_against_a_plain_computation(trained: Weights) -> None:
    other = initial_weights(TIED, Training(d_sae=60), seed=9)
    # half of the latents of the other SAE are the first one's, a little off
    other.enc[:30] = trained.enc[30:] + 0.01 * other.enc[:30]
    other.dec[:30] = trained.dec[30:] + 0.01 * other.dec[:30]
    pair = measure_pair(trained, other)
    similarities = [
        np.abs(a.numpy() @ b.numpy().T)
        / np.outer(a.norm(dim=1).numpy(), b.norm(dim=1).numpy())
        for a, b in ((trained.dec, other.dec), (trained.enc, other.enc))
    ]
    expected = np.mean([s.max(axis).mean() for s in similarities for axis in (0, 1)])
    assert pair.figures["mean_max_cos"].value == pytest.approx(expected, abs=1e-6)
    paired = (similarities[0].max(1) > 0.7).mean()
    assert pair.figures["paired"].value == pytest.approx(paired)
    partners = [linear_sum_assignment(-s)[1] for s in similarities]
    rows = np.arange(60)
    high = [s[rows, p] > 0.7 for s, p in zip(similarities, partners)]
    shared = (partners[0] == partners[1]) & high[0] & high[1]
    assert shared.sum() >= 30
    assert pair.figures["shared"].value == pytest.approx(shared.mean())
    figure = pair.figures["paired"]
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low <= figure.value <= figure.high
    assert figure.n == 60


def test_evaluation_against_a_plain_computation(
    trained: Weights, images: Images
) -> None:
    found = evaluate(trained, images.pixels)
    x = images.pixels.double() / 255
    leaves = [leaf.double() for leaf in trained.tensors.values()]
    order = (
        encoder_decoder_cosines(trained.enc, trained.dec)
        .abs()
        .argsort(descending=True, stable=True)
    )
    counts = [max(1, round(share * 60)) for share in KEPT_SHARES]
    errors = [mnist_oracle.kept_error(leaves, x, order[:n]) for n in counts]
    assert found.kept_mse == pytest.approx(errors, rel=1e-5)
    others = [mnist_oracle.kept_error(leaves, x, order[n:]) for n in counts]
    assert found.without_mse == pytest.approx(others, rel=1e-4)
    assert found.mse == found.kept_mse[-1]
    assert len(found.random_mse) == RANDOM_DRAWS
    for draw in found.random_mse:
        assert draw[-1] == pytest.approx(found.mse, rel=1e-5)
    # a draw of one latent leaves what some one latent leaves
    single = [mnist_oracle.kept_error(leaves, x, torch.tensor([j])) for j in range(60)]
    for draw in found.random_mse:
        assert min(abs(draw[0] / one - 1) for one in single) < 1e-5
    assert len({draw[3] for draw in found.random_mse}) > 1
    spread = float(((x - x.mean(dim=0)) ** 2).mean())
    assert found.variance_explained == pytest.approx(1 - errors[-1] / spread, rel=1e-4)
    acts = torch.relu((x - leaves[3]) @ leaves[0].T + leaves[2])
    assert found.density == pytest.approx(float((acts > 0).double().mean()), rel=1e-4)
    assert found.firing == int((acts > 0).any(dim=0).sum())
    cosines = torch.cosine_similarity(leaves[0], leaves[1])
    assert (found.alive, found.alive + found.dead) == (int((cosines > 0.1).sum()), 60)


ELSEWHERE = """
import sys
sys.modules["saereg_plugin"] = sys.modules["eval_recipes"] = None  # importing them fails
import torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from sae_lens import SAE
root = Path(sys.argv[1])
x = load_file(root / "x.safetensors")["x"]
for name in ("tied", "untied"):
    sae = SAE.load_from_disk(root / name)
    assert type(sae).__module__ == "sae_lens.saes.standard_sae", type(sae)
    assert sae.cfg.architecture() == "standard"
    with torch.no_grad():
        found = {"acts": sae.encode(x), "x_hat": sae(x)}
    save_file(found, root / f"{name}.safetensors")
"""


@pytest.mark.slow
def test_saelens_alone_computes_the_same(
    trained: Weights, images: Images, tmp_path: Path
) -> None:
    both = {
        "tied": trained,
        "untied": Weights(trained.enc, trained.dec),
    }
    for name, weights in both.items():
        save_sae(weights, {"name": name}, tmp_path / name)
    x = images.pixels.float() / 255
    save_file({"x": x}, tmp_path / "x.safetensors")
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path)], check=True)
    for name, weights in both.items():
        elsewhere = load_file(tmp_path / f"{name}.safetensors")
        leaves = [*weights.tensors.values()]
        x_hat, acts = mnist_oracle.encode_decode(leaves, x)
        torch.testing.assert_close(elsewhere["acts"], acts, rtol=0, atol=1e-6)
        torch.testing.assert_close(elsewhere["x_hat"], x_hat, rtol=0, atol=1e-5)


def test_the_most_shared_latents_are_found_in_every_seed(
    trained: Weights, images: Images
) -> None:
    second, where_second = shuffled(trained, 1)
    third, where_third = shuffled(trained, 2)
    evaluation = evaluate(trained, images.pixels)
    members = [
        Finished(Run(TIED, seed), weights, evaluation, [])
        for seed, weights in enumerate((trained, second, third))
    ]
    (group,) = group_runs(members[::-1])
    chosen = most_shared(group)
    assert chosen.shape == (12, 3)
    first = chosen[:, 0]
    assert torch.equal(chosen[:, 1], where_second[first])
    assert torch.equal(chosen[:, 2], where_third[first])
    # what the second and the third do not share is left out
    other = third.dec.clone()
    gone = int(where_third[first[0]])
    other[gone] = torch.eye(784)[0]
    changed = Weights(third.enc, other, third.b_enc, third.b_dec)
    (fewer,) = group_runs([*members[:2], replace(members[2], weights=changed)])
    assert int(first[0]) not in most_shared(fewer)[:, 0].tolist()
    (alone,) = group_runs(members[:1])
    assert most_shared(alone).shape == (0, 1)


@pytest.fixture
def command(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Run the command on a few images; returns the output folder."""
    folder = write_folder(tmp_path / "data", images)

    def run(*arguments: str) -> Path:
        line = ["saereg-bench", "study", "mnist", "--mnist-dir", str(folder)]
        line += ["--out", str(tmp_path / "out"), "--d-sae", "40", "--epochs", "2"]
        monkeypatch.setattr(sys, "argv", [*line, *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert not caught.value.code, caught.value.code
        return tmp_path / "out"

    return run


def test_the_command_reports_on_what_is_finished(command: Callable[..., Path]) -> None:
    choice = ("--setting", "tied-l1", "--setting", "untied")
    out = command(*choice, "--seed", "0", "--seed", "1")
    report = json.loads((out / "report.json").read_text())
    assert not report["complete"]
    assert (report["finished_runs"], report["planned_runs"]) == (4, 21)
    assert report["images"] == {**report["images"], "n": 400, "is_mnist": False}
    weights = out / "tied-l1" / "seed1" / "sae" / "sae_weights.safetensors"
    before = weights.stat().st_mtime_ns
    removed = out / "untied" / "seed0" / "sae"
    shutil.rmtree(removed)
    # what is chosen to train does not take the others out of the report
    command("--setting", "tied-l1", "--seed", "2", "--report-only")
    report = json.loads((out / "report.json").read_text())
    assert report["finished_runs"] == 4
    assert len(report["missing_runs"]) == 17
    assert {"tied-l1/seed2", "untied/seed2", "tied/seed0"} < {*report["missing_runs"]}
    # nor does a seed that was named before go missing
    command("--setting", "untied", "--seed", "5")
    command("--setting", "untied", "--seed", "0", "--report-only")
    report = json.loads((out / "report.json").read_text())
    assert (report["finished_runs"], report["planned_runs"]) == (5, 28)
    shutil.rmtree(out / "untied" / "seed5")
    command("--report-only")
    report = json.loads((out / "report.json").read_text())
    assert weights.stat().st_mtime_ns == before
    assert (removed / "sae_weights.safetensors").is_file()
    text = (out / "report.md").read_text()
    assert text.startswith("**Partial report.** 4 of 21 SAEs")
    assert "| 54.86% |" not in text
    assert "0.5486" in text
    tied = next(s for s in report["settings"] if s["name"] == "tied-l1")
    assert [pair["seeds"] for pair in tied["figures"]["shared"]["pairs"]] == [[0, 1]]
    assert tied["published"]["shared_alive"] == 0.1410
    assert len(tied["saes"][0]["mse_by_epoch"]) == 2
    assert [pair["seeds"] for pair in tied["matching_gaps"]] == [[0, 1]]
    assert tied["matching_gaps"][0]["encoder_alive"] == 0
    named = {one["name"]: one for one in report["baselines"]}
    assert set(named) == {"random", "untied-start", "tied-start"}
    (pair,) = named["random"]["figures"]["mean_max_cos"]["pairs"]
    assert 0 < pair["low"] < pair["value"] < pair["high"] < 0.2
    assert pair["n_latents"] == 40
    tables = text.split("\n\n")
    for table in (tables[1], tables[3], tables[5]):
        assert "| random directions | " in table
        assert "| tied, before training | " in table
    rows = [line.split(" | ") for line in tables[5].splitlines()[2:]]
    assert [row[-1] for row in rows] == ["0 |"] * 5
    # no vector vanishes in two epochs, so both ways to measure agree
    for name in ("mean_max_cos", "paired", "shared"):
        assert tied["as_published"][name]["mean"] == pytest.approx(
            tied["figures"][name]["mean"], abs=1e-6
        )
    for name in ("encoder-decoder-cosines", "shared-latents", "kept-latents"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--setting", "tied-l3"), "Did you mean 'tied-l"),
        (("--report-only",), "no SAE with all its 2 epochs"),
        (("--mnist-dir", "/nowhere"), "expected MNIST's IDX files"),
        (("--drop-last",), "400 images and batches have 512"),
    ],
)
def test_bad_input_is_one_clear_error(
    arguments: tuple[str, ...],
    message: str,
    command: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(AssertionError, match="^2"):
        command(*arguments)
    err = " ".join(capfd.readouterr().err.split())
    assert err.count("error:") == 1
    assert message in err
