"""The hand-written gradients of encoder and decoder against finite differences and autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from saereg_plugin.kernels.encode import NestedDecode, SelectedPreActivations
from saereg_plugin.kernels.selected import Selected
from tests.kernels.test_selected import filled, selected_from
from tests.oracles.dense_topk_step import nested_reconstructions, pre_activations

BATCH, D_IN, D_SAE = 5, 4, 9
WIDTHS = [(D_SAE,), (2, 5, D_SAE), (4, D_SAE)]


def chosen_pairs() -> torch.Tensor:
    """Ragged: row 2 is empty, row 0 full, latents 3 and 8 belong to row 0 or to nobody."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(BATCH, D_SAE, generator=generator) < 0.4
    mask[0] = True
    mask[2] = False
    mask[1:, 3] = False
    mask[:, 8] = False
    return mask


def leaf(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return drawn.requires_grad_()


def encoder_inputs() -> tuple[torch.Tensor, ...]:
    """x, W_enc, b_enc, b_dec."""
    return (
        leaf(BATCH, D_IN, seed=1),
        leaf(D_IN, D_SAE, seed=2),
        leaf(D_SAE, seed=3),
        leaf(D_IN, seed=4),
    )


def encoded(
    selected: Selected, given: bool, x: Any, W_enc: Any, b_enc: Any, b_dec: Any = None
) -> Any:
    values = None
    if given:
        # as the selection computes them: the function's value, without its graph
        with torch.no_grad():
            values = pre_activations(x, W_enc, b_enc, b_dec)[
                selected.rows, selected.latents
            ]
    return SelectedPreActivations.apply(x, W_enc, b_enc, b_dec, selected, values)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_gradcheck_of_selected_pre_activations(given: bool, centred: bool) -> None:
    selected = selected_from(chosen_pairs())
    inputs = encoder_inputs()[: 4 if centred else 3]
    assert torch.autograd.gradcheck(lambda *t: encoded(selected, given, *t), inputs)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_selected_pre_activations_are_entries_of_the_dense_matrix(
    given: bool, centred: bool
) -> None:
    mask = chosen_pairs()
    inputs = encoder_inputs()[: 4 if centred else 3]
    ours = encoded(selected_from(mask), given, *inputs)
    dense = pre_activations(*inputs[:3], inputs[3] if centred else None)[mask]
    torch.testing.assert_close(ours, dense)
    upstream = leaf(len(dense), seed=5).detach()
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(dense, inputs, upstream),
    )


def test_given_values_are_copied() -> None:
    selected = selected_from(chosen_pairs())
    values = torch.zeros(len(selected.latents), dtype=torch.float64)
    x, W_enc, b_enc, b_dec = encoder_inputs()
    hidden: Any = SelectedPreActivations.apply(x, W_enc, b_enc, b_dec, selected, values)
    assert torch.equal(hidden, values)
    assert hidden.data_ptr() != values.data_ptr()


def test_input_without_gradient_gets_none() -> None:
    selected = selected_from(chosen_pairs())
    inputs = encoder_inputs()
    encoded(selected, False, *inputs).sum().backward()
    wanted = [tensor.grad for tensor in inputs]
    fixed, *others = encoder_inputs()
    fixed = fixed.detach()
    encoded(selected, False, fixed, *others).sum().backward()
    assert wanted[0] is not None and fixed.grad is None
    torch.testing.assert_close([tensor.grad for tensor in others], wanted[1:])


def decoder_inputs(selected: Selected) -> tuple[torch.Tensor, ...]:
    """acts, W_dec, b_dec."""
    return (
        leaf(len(selected.latents), seed=6),
        leaf(D_SAE, D_IN, seed=7),
        leaf(D_IN, seed=8),
    )


@pytest.mark.parametrize("widths", WIDTHS)
def test_gradcheck_of_nested_decode(widths: tuple[int, ...]) -> None:
    selected = selected_from(chosen_pairs())
    assert torch.autograd.gradcheck(
        lambda *t: NestedDecode.apply(*t, selected, widths), decoder_inputs(selected)
    )


@pytest.mark.parametrize("widths", WIDTHS)
def test_nested_decode_is_the_dense_product(widths: tuple[int, ...]) -> None:
    mask = chosen_pairs()
    selected = selected_from(mask)
    inputs = acts, W_dec, b_dec = decoder_inputs(selected)
    ours: Any = NestedDecode.apply(acts, W_dec, b_dec, selected, widths)
    dense = nested_reconstructions(filled(mask, acts), W_dec, b_dec, widths)
    assert ours.shape == (len(widths), BATCH, D_IN)
    torch.testing.assert_close(ours, dense)
    upstream = leaf(*dense.shape, seed=9).detach()
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(dense, inputs, upstream),
    )


@pytest.mark.parametrize("widths", WIDTHS)
def test_gradients_of_one_level_leave_later_latents_alone(
    widths: tuple[int, ...],
) -> None:
    selected = selected_from(chosen_pairs())
    for level, width in enumerate(widths):
        acts, W_dec, b_dec = decoder_inputs(selected)
        levels: Any = NestedDecode.apply(acts, W_dec, b_dec, selected, widths)
        levels[level].square().sum().backward()
        assert acts.grad is not None and W_dec.grad is not None
        assert torch.equal(acts.grad != 0, selected.latents < width)
        assert not W_dec.grad[width:].any()


@pytest.mark.parametrize("widths", WIDTHS)
def test_a_batch_without_active_latents(widths: tuple[int, ...]) -> None:
    selected = selected_from(torch.zeros(BATCH, D_SAE, dtype=torch.bool))
    inputs = encoder_inputs()
    hidden = encoded(selected, False, *inputs)
    _, W_dec, b_dec = decoder_inputs(selected)
    levels: Any = NestedDecode.apply(hidden, W_dec, b_dec, selected, widths)
    assert torch.equal(levels, b_dec.expand(len(widths), BATCH, D_IN))
    levels.sum().backward()
    assert b_dec.grad is not None
    torch.testing.assert_close(
        b_dec.grad, torch.full_like(b_dec, float(len(widths) * BATCH))
    )
    for tensor in (*inputs, W_dec):
        assert tensor.grad is not None and not tensor.grad.any()
