"""A step is one forward and one backward pass; what mixes passes is refused, nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import saereg_plugin as sr
from saereg_plugin.architectures.sparse_step import SparseStepOutput
from tests.mechanics.small import STEPS, backward, data, small_sae, train
from tests.training import assert_same_state, component, forward

PENALISED: dict[str, Any] = {"regularizers": [sr.WeightPenalty(coefficient=0.1)]}
EAGER = sr.DeadLatentResampling(decay=0.0, threshold=0.1, every=1)


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_a_second_backward_pass_is_refused(
    architecture: str, fields: dict[str, Any]
) -> None:
    sae = small_sae(architecture, **PENALISED, **fields)
    first, second = data(2)
    backward(sae, first)
    with pytest.raises(sr.InputError, match="A second backward pass before the optim"):
        backward(sae, second)


@pytest.mark.parametrize("trained", ["first", "sum"])
@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_training_another_pass_than_the_last_is_refused(
    architecture: str, fields: dict[str, Any], trained: str
) -> None:
    """An earlier pass, or the sum of two: components hold the state of the last one."""
    sae = small_sae(architecture, **PENALISED, **fields)
    first, second = (forward(sae, batch).loss for batch in data(2))
    loss = first + second if trained == "sum" else first
    with pytest.raises(sr.InputError, match="Another forward pass came between"):
        loss.backward()
    # the next step is free of it
    sae.zero_grad()
    again = small_sae(architecture, **PENALISED, **fields)
    again.load_state_dict(sae.state_dict())
    for each in (sae, again):
        train(each, data(1, seed=3))
    assert_same_state(sae, again)


def test_the_same_graph_backward_twice_is_refused() -> None:
    sae = small_sae(**PENALISED)
    (batch,) = data(1)
    loss = forward(sae, batch).loss
    loss.backward(retain_graph=True)
    with pytest.raises(sr.InputError, match="A second backward pass before the optim"):
        loss.backward()
    # the next step is free of it
    sae.zero_grad()
    backward(sae, batch)


def test_a_pass_between_backward_pass_and_step_is_refused() -> None:
    sae = small_sae(**PENALISED)
    first, second = data(2)
    optimizer = torch.optim.Adam(sae.parameters())
    backward(sae, first)
    forward(sae, second)
    before = sae.W_enc.detach().clone()
    with pytest.raises(sr.InputError, match="Another forward pass came between"):
        optimizer.step()
    assert torch.equal(sae.W_enc, before)


ACTING: dict[str, Any] = {
    **PENALISED,
    "init_seed": 1,
    "max_norm_multiple": 50.0,
    "mechanics": [
        sr.ActivationRateScaling(decay=0.5),
        sr.DeadLatentResampling(decay=0.5, threshold=0.1, every=2),
    ],
}


def stepped(sae: Any, *, figures: bool) -> list[tuple[Any, ...]]:
    """
    Four steps: gradients, rates, resampled latents, state.

    With ``figures`` passes of other activations come before and after each backward pass.
    """
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    seen: list[tuple[Any, ...]] = []

    def look(other: torch.Tensor) -> None:
        if figures:
            with torch.no_grad():
                output = forward(sae, other)
            assert "weight_penalty" not in output.losses

    for batch, other in zip(data(4), data(4, seed=7), strict=True):
        other = -20 * other
        output = forward(sae, batch)
        look(other)
        output.loss.backward()
        look(other)
        gradients = [p.grad.clone() for p in sae.parameters() if p.grad is not None]
        optimizer.step()
        optimizer.zero_grad()
        scaling = component(sae, "activation_rate_scaling")
        resampling = component(sae, "resampling")
        seen.append((gradients, scaling.rate.clone(), resampling.rate.clone()))
        seen.append((resampling.metrics(), sae.W_enc.detach().clone()))
    return seen


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_passes_for_figures_change_nothing(
    architecture: str, fields: dict[str, Any]
) -> None:
    """Not the gradients, not the rates, not which latents start anew."""
    plain, looked = (small_sae(architecture, **ACTING, **fields) for _ in range(2))
    expected = stepped(plain, figures=False)
    torch.testing.assert_close(
        stepped(looked, figures=True), expected, rtol=0, atol=0, equal_nan=True
    )
    assert looked.step_index == 4
    assert component(plain, "activation_rate_scaling").rate.any()
    # BatchTopK's threshold moves in every pass, as SAELens has it
    keys = [key for key in plain.state_dict() if key != "topk_threshold"]
    assert_same_state(looked, plain, keys=keys)


def test_latents_start_anew_by_the_pass_that_is_trained() -> None:
    """In this setting some are dead in the other passes, and none in the trained ones."""
    fields = {**ACTING, "mechanics": [ACTING["mechanics"][0], EAGER]}
    counts: list[float] = []
    for batches in (data(1), [-20 * batch for batch in data(1, seed=7)]):
        sae = small_sae("standard", **fields)
        train(sae, batches)
        counts.append(component(sae, "resampling").metrics()["last_resampled"])
    assert counts[0] != counts[1]
    sae = small_sae("standard", **fields)
    optimizer = torch.optim.Adam(sae.parameters())
    output = forward(sae, data(1)[0])
    with torch.no_grad():
        forward(sae, -20 * data(1, seed=7)[0])
    output.loss.backward()
    optimizer.step()
    assert component(sae, "resampling").metrics()["last_resampled"] == counts[0]


def test_a_pass_for_figures_does_not_choose_the_optimiser() -> None:
    """The first step is dense, as k is d_in; the pass for figures has k 1 and is sparse."""
    annealing: dict[str, Any] = {"mechanics": [sr.KAnnealing(steps=50)]}
    sae, plain = (
        small_sae(k=1, sparse_step="auto", init_seed=1, **annealing) for _ in range(2)
    )
    (batch,) = data(1)
    train(plain, [batch])
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    output = forward(sae, batch)
    with torch.no_grad():
        assert isinstance(forward(sae, batch), SparseStepOutput)
    output.loss.backward()
    torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
    optimizer.step()
    assert not sae.took_sparse_step
    assert not optimizer.param_groups[0]["fused"]
    assert_same_state(sae, plain)


@pytest.mark.parametrize("to_none", [True, False])
def test_other_orders_are_not(to_none: bool) -> None:
    sae = small_sae(**PENALISED)
    first, second = data(2)
    optimizer = torch.optim.Adam(sae.parameters())
    # a step that is given up, as a gradient scaler does
    backward(sae, first)
    optimizer.zero_grad(set_to_none=to_none)
    # an evaluation between the backward pass and the step
    backward(sae, second)
    with torch.no_grad():
        sae.encode(first)
        forward(sae, first)
    optimizer.step()
    # gradients of the step before are cleared only after the next pass
    output = forward(sae, first)
    optimizer.zero_grad(set_to_none=to_none)
    output.loss.backward()
    optimizer.step()
    assert sae.step_index == 2


def test_without_components_gradients_may_accumulate() -> None:
    sae = small_sae()
    first, second = data(2)
    backward(sae, first)
    once = sae.W_enc.grad.clone()
    backward(sae, second)
    assert not torch.equal(sae.W_enc.grad, once)
