"""What each penalty on activations is for, on data with a known structure."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from sae_lens.saes.sae import TrainStepOutput

import saereg_plugin as sr
from saereg_plugin.regularizers.token_order import without_starts
from tests.regularizers.synthetic import (
    CONTEXT,
    explained,
    in_batches,
    small_sae,
    sparse_data,
    token_data,
)
from tests.training import forward, make_trainer, run_steps

pytestmark = pytest.mark.slow


def trained(
    architecture: str,
    rows: torch.Tensor,
    regularizer: sr.RegularizerConfig | None,
    *,
    steps: int,
    lr: float,
    **fields: Any,
) -> Any:
    """A unit-norm SAE after ``steps`` steps of 64 rows."""
    sae = small_sae(
        architecture,
        decoder_constraint="unit_norm",
        regularizers=[] if regularizer is None else [regularizer],
        **fields,
    )
    trainer = make_trainer(sae, in_batches(rows, 64), steps=steps, batch_size=64, lr=lr)
    run_steps(trainer, steps)
    return sae


def trained_topk(regularizer: sr.RegularizerConfig | None) -> Any:
    return trained("topk", sparse_data(6400), regularizer, steps=400, lr=5e-3)


@cache
def plain_topk() -> Any:
    """What the penalised SAEs are compared with."""
    return trained_topk(None)


def off_support_share(output: TrainStepOutput) -> float:
    a, z = output.hidden_pre.detach().relu(), output.feature_acts.detach()
    return float((a - z).sum() / a.sum())


def mean_ratio(output: TrainStepOutput) -> float:
    a = output.hidden_pre.detach().relu()
    return float((a.sum(dim=-1) / a.norm(dim=-1)).mean())


def test_off_support_mass_falls_at_equal_r2() -> None:
    held_out = sparse_data(2000, seed=1)
    saes = (plain_topk(), trained_topk(sr.OffSupportL1(coefficient=0.1)))
    plain, charged = (off_support_share(forward(sae, held_out)) for sae in saes)
    assert charged < 0.6 * plain
    plain_r2, charged_r2 = (explained(sae, held_out) for sae in saes)
    assert charged_r2 > plain_r2 - 0.005


def test_ratio_falls_at_equal_r2() -> None:
    held_out = sparse_data(2000, seed=1)
    saes = (plain_topk(), trained_topk(sr.L1L2Ratio(coefficient=0.2)))
    plain, charged = (mean_ratio(forward(sae, held_out)) for sae in saes)
    assert charged < 0.75 * plain
    plain_r2, charged_r2 = (explained(sae, held_out) for sae in saes)
    assert charged_r2 > plain_r2 - 0.005


def trained_standard(coefficient: float, beta: float) -> Any:
    penalty = sr.FrequencyWeightedL1(
        coefficient=coefficient, beta=beta, beta_warm_up_steps=50
    )
    return trained("standard", sparse_data(6400), penalty, steps=450, lr=3e-3)


def test_frequent_latents_fire_less_often_at_equal_l0() -> None:
    held_out = sparse_data(2000, seed=1)
    often, l0, r2 = [], [], []
    for sae in (trained_standard(0.2, beta=0.0), trained_standard(0.05, beta=10.0)):
        rates = (sae.encode(held_out) > 0).float().mean(dim=0)
        often.append(rates.topk(8).values.mean().item())
        l0.append(rates.sum().item())
        r2.append(explained(sae, held_out))
    assert l0[1] == pytest.approx(l0[0], abs=0.5)
    assert often[1] < 0.95 * often[0]
    assert r2[1] > r2[0] - 0.02


def trained_on_tokens(coefficient: float) -> Any:
    penalty = sr.TemporalDifference(coefficient=coefficient, context_size=CONTEXT)
    return trained(
        "standard", token_data(800), penalty, steps=300, lr=3e-3, l1_coefficient=0.05
    )


def test_activations_change_less_from_token_to_token() -> None:
    held_out = without_starts(token_data(200, seed=1), CONTEXT)
    changes, relative, r2 = [], [], []
    for sae in (trained_on_tokens(0.0), trained_on_tokens(0.3)):
        acts = sae.encode(held_out).detach().reshape(200, CONTEXT - 1, -1)
        change = float((acts[:, 1:] - acts[:, :-1]).square().sum(dim=-1).mean())
        changes.append(change)
        relative.append(change / float(acts.square().sum(dim=-1).mean()))
        r2.append(explained(sae, held_out))
    assert changes[1] < 0.8 * changes[0]
    # not only because activations shrink
    assert relative[1] < 0.85 * relative[0]
    assert r2[1] > r2[0] - 0.01
