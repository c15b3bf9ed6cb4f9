"""Parts of the absorption recipe that need no language model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_bench.evals.absorption.k_sparse_probing import metrics
from sae_lens import SAE

from eval_recipes.running.context import RunContext
from eval_recipes.saebench.absorption.probes import quiet, sample_words
from eval_recipes.saebench.absorption.upstream_run import (
    UnitDecoder,
    is_unit,
    norm_deviation,
)
from eval_recipes.saebench.upstream import folded_copy
from saereg_plugin.errors import InputError
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import save_release, tiny_sae
from tests.oracles import absorption_oracle as oracle
from tests.training import D_IN, D_SAE, make_stock_sae

EVALUATION = Named("absorption")

# Norms are folded on saving, by fold_W_dec_norm, or nowhere.
UNFOLDABLE = ("topk", {"rescale_acts_by_decoder_norm": False})
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("standard", {}),
    ("gated", {}),
    ("jumprelu", {}),
    ("batchtopk", {"rescale_acts_by_decoder_norm": False}),
    ("batchtopk", {"rescale_acts_by_decoder_norm": True}),
    ("matryoshka_batchtopk", {"rescale_acts_by_decoder_norm": False}),
    ("topk", {"rescale_acts_by_decoder_norm": True}),
    UNFOLDABLE,
]


def saved(folder: Path, architecture: str, fields: dict[str, Any]) -> SAE[Any]:
    """An SAE with rows of many norms, as SAELens saves it for inference and loads it."""
    training = make_stock_sae(architecture, **fields)
    scale = torch.linspace(0.3, 3, D_SAE)[torch.randperm(D_SAE)]
    training.W_dec.data *= scale[:, None] / training.W_dec.norm(dim=-1, keepdim=True)
    if hasattr(training, "topk_threshold"):
        training.topk_threshold.fill_(0.2)
    training.save_inference_model(str(folder))
    return SAE.load_from_disk(str(folder))


@pytest.mark.parametrize(("architecture", "fields"), ROUTES)
@torch.no_grad()
def test_unit_rows_leave_the_function_of_every_architecture_as_it_is(
    tmp_path: Path, architecture: str, fields: dict[str, Any]
):
    sae = saved(tmp_path, architecture, fields)
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    x = torch.randn(64, D_IN)
    unit = UnitDecoder(sae)
    latents = unit.encode(x)
    assert 0 < (latents > 0).float().mean() < 1
    torch.testing.assert_close(
        latents @ unit.W_dec + sae.b_dec, sae(x), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(unit.W_dec.norm(dim=-1), torch.ones(D_SAE))
    folded = folded_copy(sae)
    if (architecture, fields) == UNFOLDABLE:
        assert norm_deviation(folded) == pytest.approx(2, abs=1e-5)
        assert not is_unit(folded)
        # What SAELens refuses would choose other latents.
        wrong = (x @ unit.W_enc) * unit.norms
        assert not torch.equal(wrong.topk(8).indices, latents.topk(8).indices)
    else:
        assert is_unit(folded)
        torch.testing.assert_close(latents, folded.encode(x), rtol=1e-4, atol=1e-5)
    # A copy for each call, moved and cast on its own.
    unit.to(device="cpu", dtype=torch.float64)
    assert unit.encode(x.double()).dtype == unit.dtype == torch.float64
    assert all(torch.equal(value, before[n]) for n, value in sae.state_dict().items())
    assert unit.W_dec.data_ptr() != sae.W_dec.data_ptr()


def test_rows_of_zero_have_no_norm_to_be_off():
    sae = make_stock_sae("standard")
    sae.W_dec.data = torch.nn.functional.normalize(sae.W_dec.data, dim=-1)
    sae.W_dec.data[3] = 0
    assert is_unit(sae)
    sae.W_dec.data[4] *= 0.9
    assert norm_deviation(sae) == pytest.approx(0.1, abs=1e-6)
    assert UnitDecoder(sae).W_dec.isfinite().all()


def test_binary_metrics_of_upstream_are_those_of_counting():
    generator = np.random.default_rng(0)
    for n_true in (1, 5, 20):
        truth = generator.permutation(np.arange(40) < n_true)
        # Rounded, so that there are ties.
        scores = (generator.normal(size=40) + truth).round(1)
        called = scores > 0
        found = (
            metrics.f1_score(truth, called),
            metrics.precision_score(truth, called),
            metrics.recall_score(truth, called),
            metrics.roc_auc_score(truth, scores),
        )
        by_hand = oracle.binary_figures(truth.tolist(), scores.tolist())
        assert found == pytest.approx(by_hand, abs=1e-14)


@pytest.mark.filterwarnings("error::sklearn.exceptions.UndefinedMetricWarning")
def test_binary_metrics_without_a_case_are_silent():
    none, some = np.zeros(4, dtype=bool), np.array([True, False, False, True])
    with quiet():
        for truth, called in ((none, none), (none, some), (some, none)):
            for name in ("f1_score", "precision_score", "recall_score"):
                assert getattr(metrics, name)(truth, called) == 0
        assert np.isnan(metrics.roc_auc_score(none, np.arange(4)))
    with pytest.raises(ValueError, match="NaN"):
        metrics.roc_auc_score(some, np.array([0, 1, np.nan, 2]))


def test_words_are_drawn_by_letter():
    words = [f"{a}{b}" for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijkl"]
    drawn = sample_words(words, words_per_letter=10, seed=0)
    assert len(drawn) == 260
    assert drawn == sorted(drawn)
    random.seed(5)
    assert drawn == sample_words(words, words_per_letter=10, seed=0)
    assert drawn != sample_words(words, words_per_letter=10, seed=1)
    assert sample_words(words, words_per_letter=None, seed=0) == words
    with pytest.raises(InputError, match="start with z"):
        sample_words(words[:-3], words_per_letter=None, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": 10}, "Unknown absorption option"),
        ({"words_per_letter": 9}, "at least 10"),
        ({"min_feats_for_eval": 1}, "at least 2"),
        (
            {"min_GT_probe_f1": 1.5},
            "min_GT_probe_f1 is 1.5; expected at most 1",
        ),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        EVALUATION.check(
            RunContext([], Path("unused"), options={"absorption": options})
        )


def test_other_hooks_are_refused_by_name(tmp_path: Path, model_name: str):
    sae = tiny_sae(model_name, "blocks.0.hook_mlp_out", torch.zeros(576), 0)
    subjects = save_release(tmp_path / "other-hook", {"a": sae})
    with pytest.raises(
        InputError, match="reads 'blocks.0.hook_mlp_out', which absorption cannot serve"
    ):
        EVALUATION.check(RunContext(subjects, tmp_path))
