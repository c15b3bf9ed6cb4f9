"""Latents chosen by two files of texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata

from eval_recipes.select.inputs import input_vectors
from eval_recipes.steering.generate.language_model import LanguageModel
from eval_recipes.steering.generate.plain import PlainBackend
from eval_recipes.steering.select.contrast import (
    mean_activations,
    select_by_texts,
    text_passes,
)
from saereg_plugin.errors import InputError
from tests.eval_recipes.steering.test_steering import WIDTH, llama, tokenizer

TEXTS = [f"w{n} w{n + 3} w{2 * n}" for n in range(1, 14)]


def text_sae() -> TopKSAE:
    torch.manual_seed(1)
    metadata = SAEMetadata(
        model_name="tiny", hook_name="blocks.0.hook_resid_post", prepend_bos=False
    )
    sae = TopKSAE(TopKSAEConfig(d_in=WIDTH, d_sae=64, k=5, metadata=metadata))
    sae.W_enc.data = torch.randn(WIDTH, 64)
    return sae


def test_passes_over_texts_are_those_of_the_contrast() -> None:
    torch.manual_seed(0)
    model = LanguageModel("tiny", "plain", PlainBackend(llama()), tokenizer())
    sae = text_sae()
    passes = list(text_passes(model, sae, TEXTS * 2))
    assert torch.cat([one.inputs for one in passes]).tolist() == list(range(26))
    found = input_vectors(sae, passes, mean="all")
    expected = mean_activations(model, sae, TEXTS * 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_files_of_texts_are_read_before_the_model(tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("one\ntwo\n")
    with pytest.raises(InputError, match="2 different texts"):
        select_by_texts(text_sae(), str(few), str(few))
