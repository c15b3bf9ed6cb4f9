"""Mechanics under SAELens' unmodified runners, on the embedded model."""

from __future__ import annotations

import pytest
import torch
from sae_lens import LanguageModelSAETrainingRunner
from transformer_lens import HookedTransformer

import saereg_plugin as sr
from tests.test_runner import run_multi
from tests.training import component, make_cfg, row_norms, runner_cfg

pytestmark = pytest.mark.slow

MECHANICS = [
    sr.DeadLatentResampling(decay=0.5, threshold=0.01, every=4, until=8),
    sr.WeightDecay(decay=0.1),
    sr.GradientClipping(max_norm=0.3),
    sr.ActivationRateScaling(),
    sr.KAnnealing(steps=6),
]


def test_single_runner(model: HookedTransformer) -> None:
    cfg = make_cfg(
        mechanics=MECHANICS,
        decoder_constraint="unit_norm",
        normalize_activations="expected_average_only_in",
        auxk_scaling="dictionary_learning",
        sparse_step="auto",
    )
    trained = LanguageModelSAETrainingRunner(
        runner_cfg(cfg), override_model=model
    ).run()
    assert trained.step_index == 10
    assert component(trained, "resampling").metrics()["last_resampled"] > 0
    assert (row_norms(trained) - 1).abs().max() < 1e-6
    assert trained.current_k == 8


def test_multi_runner_keeps_mechanics_apart(model: HookedTransformer) -> None:
    saes = {
        "plain": make_cfg(init_seed=1),
        "decayed": make_cfg(init_seed=1, mechanics=[sr.WeightDecay(decay=50.0)]),
        "again": make_cfg(init_seed=1),
        "standard": make_cfg("standard", init_seed=1, mechanics=MECHANICS[:4]),
    }
    trained = run_multi(model, saes)
    assert torch.equal(trained["plain"].W_enc, trained["again"].W_enc)
    assert trained["decayed"].W_enc.norm() < 0.9 * trained["plain"].W_enc.norm()
    assert component(trained["standard"], "resampling").rate.any()
