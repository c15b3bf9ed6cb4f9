"""Latents chosen by two data sets: folders of clips, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from sae_lens import TopKSAE, TopKSAEConfig
from typer.testing import CliRunner

import saereg_plugin as sr
from eval_recipes.cli import app
from eval_recipes.select.inputs import select_by_data
from saereg_plugin.errors import InputError
from tests.eval_recipes.studies.whisper.tiny_whisper import save_clips, save_whisper


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of one SAE on a tiny Whisper, next to its clips."""
    root = tmp_path_factory.mktemp("clips")
    model = save_whisper(root / "whisper")
    save_clips(root / "speech", 8, speech=True, seed=0)
    save_clips(root / "noise", 8, speech=False, seed=1)
    sr.train(
        out=root / "release",
        source={
            "kind": "module",
            "model": str(model),
            "point": "model.encoder.layers.1",
            "rows": "frames",
            "data": str(root / "speech"),
        },
        sae={"architecture": "regularized_topk", "d_sae": 32, "k": 4},
        seeds=[0],
        tokens=256,
        batch_size=64,
        buffer_tokens=128,
        device="cpu",
    )
    return root / "release"


@pytest.mark.parametrize("method", ["auroc", "logistic"])
def test_the_command_chooses_latents_by_two_folders_of_clips(
    release: Path, method: str
) -> None:
    out = release.parent / f"{method}.json"
    words = ["select", str(release), "--sae-id", "sae-seed0", "--out", str(out)]
    words += ["--first", str(release.parent / "noise"), "--method", method]
    words += ["--second", str(release.parent / "speech"), "--permutations", "9"]
    result = CliRunner().invoke(app, [*words, "--n", "3", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    table = json.loads(out.read_text())
    assert len(table["latents"]) == 3 and table["method"] == method
    # the training half of the clips: 8 of each
    assert (table["n_first"], table["n_second"]) == (8, 8)
    # noise and pure tones are told apart even by an SAE that hardly trained
    assert table["together"]["value"] > 0.8
    # steering serves language models alone
    assert "steering" not in result.output
    assert str(table["latents"][0]) in result.output
    assert all(math.isfinite(one["score"]) for one in table["figures"])


def test_a_source_that_no_name_opens_is_refused() -> None:
    sae = TopKSAE(TopKSAEConfig(d_in=4, d_sae=8, k=2))
    sae.cfg.metadata.activation_source = {"kind": "arrays", "path": "x.npy"}
    with pytest.raises(InputError, match="'arrays' activations that no name opens"):
        select_by_data(sae, "a", "b")
