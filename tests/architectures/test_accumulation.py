"""A step is one backward pass; gradients that are accumulated are refused, nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import saereg_plugin as sr
from tests.mechanics.small import STEPS, backward, data, small_sae
from tests.training import forward

PENALISED: dict[str, Any] = {"regularizers": [sr.WeightPenalty(coefficient=0.1)]}


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_a_second_backward_pass_is_refused(
    architecture: str, fields: dict[str, Any]
) -> None:
    sae = small_sae(architecture, **PENALISED, **fields)
    first, second = data(2)
    backward(sae, first)
    with pytest.raises(sr.InputError, match="A second backward pass before the optim"):
        backward(sae, second)


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_two_forward_passes_before_two_backward_passes_are_refused(
    architecture: str, fields: dict[str, Any]
) -> None:
    """Neither forward pass finds a gradient, and yet the second backward pass adds to one."""
    sae = small_sae(architecture, **PENALISED, **fields)
    losses = [forward(sae, batch).loss for batch in data(2)]
    losses[0].backward()
    with pytest.raises(sr.InputError, match="A second backward pass before the optim"):
        losses[1].backward()


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


def test_a_pass_for_figures_before_the_backward_pass_is_not() -> None:
    """Two forward passes, of which the first alone is trained on."""
    sae = small_sae(**PENALISED)
    first, second = data(2)
    optimizer = torch.optim.Adam(sae.parameters())
    for _ in range(2):
        output = forward(sae, first)
        with torch.no_grad():
            forward(sae, second)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sae.step_index == 2


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
