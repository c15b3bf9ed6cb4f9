"""Latents chosen by two data sets: files of texts, folders of clips, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from typer.testing import CliRunner

import saereg_plugin as sr
from eval_recipes.cli import app
from eval_recipes.select.inputs import input_vectors
from eval_recipes.steering.generate.language_model import LanguageModel
from eval_recipes.steering.generate.plain import PlainBackend
from eval_recipes.steering.select.contrast import mean_activations
from eval_recipes.steering.select.data_sets import select_by_data, text_passes
from saereg_plugin.errors import InputError
from tests.eval_recipes.steering.test_steering import WIDTH, llama, tokenizer
from tests.eval_recipes.studies.whisper.tiny_whisper import save_clips, save_whisper

TEXTS = [f"w{n} w{n + 3} w{2 * n}" for n in range(1, 14)]


def text_sae() -> TopKSAE:
    torch.manual_seed(1)
    metadata = SAEMetadata(
        model_name="tiny", hook_name="blocks.0.hook_resid_post", prepend_bos=True
    )
    sae = TopKSAE(TopKSAEConfig(d_in=WIDTH, d_sae=64, k=5, metadata=metadata))
    sae.W_enc.data = torch.randn(WIDTH, 64)
    return sae


def test_passes_over_texts_are_those_of_the_contrast() -> None:
    torch.manual_seed(0)
    model = LanguageModel("tiny", "plain", PlainBackend(llama()), tokenizer(bos=False))
    sae = text_sae()
    passes = list(text_passes(model, sae, TEXTS * 2))
    assert torch.cat([one.inputs for one in passes]).tolist() == list(range(26))
    found = input_vectors(sae, passes, mean="all")
    expected = mean_activations(model, sae, TEXTS * 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


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
    assert f"steering.latents={table['latents']}" in result.output
    assert str(table["latents"][0]) in result.output
    assert all(math.isfinite(one["score"]) for one in table["figures"])


def test_a_source_that_no_name_opens_is_refused() -> None:
    sae = text_sae()
    sae.cfg.metadata.activation_source = {"kind": "arrays", "path": "x.npy"}
    with pytest.raises(InputError, match="'arrays' activations that no name opens"):
        select_by_data(sae, "a", "b")


def test_files_of_texts_are_read_before_the_model(tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("one\ntwo\n")
    with pytest.raises(InputError, match="2 different texts"):
        select_by_data(text_sae(), str(few), str(few))
