"""A step is one backward pass; gradients that are accumulated are refused, nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import saereg_plugin as sr
from tests.mechanics.small import STEPS, backward, data, small_sae

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
    output = sae.training_forward_pass(_input(first))
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


def _input(batch: torch.Tensor) -> Any:
    from sae_lens.saes.sae import TrainStepInput

    return TrainStepInput(
        sae_in=batch,
        coefficients={},
        dead_neuron_mask=None,
        n_training_steps=0,
        is_logging_step=False,
    )
