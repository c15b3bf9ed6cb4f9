"""The auxiliary loss of dead latents against finite differences and the dense formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from saereg_plugin.kernels import aux_loss
from saereg_plugin.kernels.aux_loss import AuxKLoss, DeadLatents
from tests.kernels.test_gradients import leaf
from tests.oracles.dense_topk_step import aux_k_loss, pre_activations

BATCH, D_IN, D_SAE = 6, 4, 15
DEAD = (1, 2, 5, 6, 9, 13, 14)
# fewer than the dead, as many, one
KS = (3, len(DEAD), 1)


@pytest.fixture(params=[1, 3, 100], ids=lambda rows: f"{rows}_rows_a_chunk")
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 1 row, of 3, and one of all rows."""
    monkeypatch.setattr(aux_loss, "_CHUNK_ENTRIES", request.param * len(DEAD))


def inputs_of(centred: bool) -> list[torch.Tensor]:
    """x, W_enc, b_enc, W_dec and, if it is subtracted, b_dec."""
    leaves = [
        leaf(BATCH, D_IN, seed=1),
        leaf(D_IN, D_SAE, seed=2),
        leaf(D_SAE, seed=3),
        leaf(D_SAE, D_IN, seed=4),
        leaf(D_IN, seed=5),
    ]
    return leaves[: 5 if centred else 4]


def norms_of(ranked: bool) -> torch.Tensor | None:
    return leaf(D_SAE, seed=6).detach().abs() + 0.1 if ranked else None


def dead_of(
    k: int, norms: torch.Tensor | None, dtype: torch.dtype = torch.float64
) -> DeadLatents:
    return DeadLatents(torch.tensor(DEAD), k, norms, dtype)


def residual() -> torch.Tensor:
    return leaf(BATCH, D_IN, seed=7).detach()


def loss_of(
    dead: DeadLatents, x: Any, W_enc: Any, b_enc: Any, W_dec: Any, *b: Any
) -> Any:
    b_dec = b[0] if b else None
    return AuxKLoss.apply(x, W_enc, b_enc, W_dec, b_dec, residual().to(x.dtype), dead)


def dense_loss(
    k: int, norms: Any, x: Any, W_enc: Any, b_enc: Any, W_dec: Any, *b: Any
) -> torch.Tensor:
    mask = torch.zeros(D_SAE, dtype=torch.bool)
    mask[list(DEAD)] = True
    pre = pre_activations(x, W_enc, b_enc, b[0] if b else None)
    return aux_k_loss(pre, W_dec, residual().to(x.dtype), mask, k, norms)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_gradcheck(k: int, ranked: bool, centred: bool) -> None:
    dead = dead_of(k, norms_of(ranked))
    assert torch.autograd.gradcheck(lambda *t: loss_of(dead, *t), inputs_of(centred))


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_loss_and_gradients_are_those_of_the_dense_formula(
    k: int, ranked: bool, centred: bool
) -> None:
    inputs, norms = inputs_of(centred), norms_of(ranked)
    ours, dense = loss_of(dead_of(k, norms), *inputs), dense_loss(k, norms, *inputs)
    assert ours.shape == () and dense > 0
    torch.testing.assert_close(ours, dense)
    torch.testing.assert_close(
        torch.autograd.grad(3 * ours, inputs), torch.autograd.grad(3 * dense, inputs)
    )


def test_norms_change_which_latents_answer() -> None:
    inputs = inputs_of(centred=True)
    plain, ranked = (
        loss_of(dead_of(3, norms_of(choice)), *inputs) for choice in (False, True)
    )
    assert (plain - ranked).abs() > 1e-3 * plain


def test_gradient_is_zero_outside_the_dead() -> None:
    inputs = x, W_enc, b_enc, W_dec, b_dec = inputs_of(centred=True)
    loss_of(dead_of(3, None), *inputs).backward()
    living = [latent for latent in range(D_SAE) if latent not in DEAD]
    for tensor in inputs:
        assert tensor.grad is not None and tensor.grad.any()
    for gradient in (W_enc.grad.T, b_enc.grad, W_dec.grad):  # type: ignore[union-attr]
        assert not gradient[living].any()


def test_input_without_gradient_gets_none() -> None:
    wanted = inputs_of(centred=True)
    loss_of(dead_of(3, None), *wanted).backward()
    fixed, *others = inputs_of(centred=True)
    fixed = fixed.detach()
    loss_of(dead_of(3, None), fixed, *others).backward()
    assert fixed.grad is None
    torch.testing.assert_close(
        [tensor.grad for tensor in others], [tensor.grad for tensor in wanted[1:]]
    )


def test_products_of_lower_precision_give_float32_gradients() -> None:
    """As under autocast: all dead latents answer, so that rounding moves no choice."""
    inputs = [t.detach().float().requires_grad_() for t in inputs_of(centred=True)]
    ours = loss_of(dead_of(len(DEAD), None, torch.bfloat16), *inputs)
    dense = dense_loss(len(DEAD), None, *inputs)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, dense, rtol=2e-2, atol=0)
    assert not torch.equal(ours, dense)
    pairs = zip(
        torch.autograd.grad(ours, inputs),
        torch.autograd.grad(dense, inputs),
        strict=True,
    )
    for gradient, exact in pairs:
        assert gradient.dtype == torch.float32
        assert (gradient - exact).norm() < 2e-2 * exact.norm()
