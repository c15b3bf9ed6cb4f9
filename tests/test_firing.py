"""Which latents fired: one answer for every form of activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import saereg_plugin as sr
from saereg_plugin.firing import fired_latents, firing_counts
from tests.regularizers.synthetic import small_sae, sparse_data
from tests.regularizers.throwaway import Watcher
from tests.training import ARCHITECTURES, component, forward, make_trainer, run_steps


def step_of(architecture: str, rows: torch.Tensor, **fields: Any) -> sr.Step:
    sae = small_sae(architecture, regularizers=[Watcher()], **fields)
    forward(sae, rows)
    return component(sae, "test_watcher").step


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dense_activations_are_counted_by_hand(architecture: str) -> None:
    step = step_of(architecture, sparse_data(20))
    counts = [
        sum(bool(value > 0) for value in column) for column in step.feature_acts.T
    ]
    assert firing_counts(step).tolist() == counts
    assert fired_latents(step).tolist() == [count > 0 for count in counts]
    assert sum(count > 0 for count in counts) > 0


def test_sparse_activations_give_the_same() -> None:
    rows = sparse_data(20)
    dense = step_of("topk", rows)
    tensor = step_of("topk", rows, use_sparse_activations=True)
    assert tensor.feature_acts.is_sparse
    assert torch.equal(firing_counts(tensor), firing_counts(dense))
    assert torch.equal(fired_latents(tensor), fired_latents(dense))
    assert not fired_latents(dense).all()


@pytest.mark.parametrize(
    "regularizer",
    [
        sr.WeightPenalty(coefficient=0.1, mask="batch_active"),
        sr.OffSupportL1(coefficient=0.1),
        sr.L1L2Ratio(coefficient=0.1),
        sr.FrequencyWeightedL1(coefficient=0.1),
    ],
    ids=lambda each: each.name,
)
def test_regularisers_train_alike_on_sparse_activations(
    regularizer: sr.RegularizerConfig,
) -> None:
    losses: list[list[torch.Tensor]] = []
    for sparse in (False, True):
        sae = small_sae(
            use_sparse_activations=sparse,
            # with it SAELens' own sparse activations do not train
            rescale_acts_by_decoder_norm=False,
            regularizers=[regularizer],
        )
        outputs = run_steps(make_trainer(sae, iter(sparse_data(256).split(64))), 4)
        assert outputs[0].feature_acts.is_sparse is sparse
        losses.append([output.losses[regularizer.name] for output in outputs])
    for dense, tensor in zip(*losses, strict=True):
        assert dense > 0
        torch.testing.assert_close(tensor, dense, rtol=1e-5, atol=0)


@pytest.mark.parametrize("sparse_step", ["never", "always"])
def test_a_penalty_on_what_fired_is_that_of_the_sparse_step(sparse_step: str) -> None:
    penalty = sr.WeightPenalty(coefficient=0.1, mask="batch_active")
    sae = small_sae(sparse_step=sparse_step, regularizers=[penalty])
    output = forward(sae, sparse_data(3))
    fired = (output.feature_acts.detach().to_dense() > 0).any(dim=0)
    assert fired.any() and not fired.all()
    kept = sae.W_enc[:, fired].square().sum() + sae.W_dec[fired].square().sum()
    torch.testing.assert_close(output.losses["weight_penalty"], 0.1 * kept.detach())
