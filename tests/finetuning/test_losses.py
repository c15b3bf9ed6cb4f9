"""KL, MSE and their sum: gradients, scale and the published formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from saereg_plugin.finetuning.losses import Objective, kl_divergence, later_error
from tests.oracles.finetune_oracle import kl_and_mse

D_IN, HIDDEN, VOCABULARY, TOKENS = 5, 7, 11, 6


class OneLayer:
    """What follows the hook in a model of one layer: tanh and an unembedding, float64."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.layer, self.unembedding = draw(D_IN, HIDDEN), draw(HIDDEN, VOCABULARY)
        self.x, self.x_hat = draw(TOKENS, D_IN), draw(TOKENS, D_IN)

    def logits(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.layer) @ self.unembedding


def plain_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """sum_v p_v (log p_v - log q_v), averaged over tokens, in the type of the logits."""
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def test_gradient_of_kl_through_a_layer_is_autograds_and_that_of_finite_differences() -> (
    None
):
    toy = OneLayer()
    x_hat = toy.x_hat.clone().requires_grad_()
    log_p = toy.logits(toy.x).log_softmax(-1)
    kl = kl_divergence(log_p.float(), toy.logits(x_hat))
    (ours,) = torch.autograd.grad(kl, x_hat)

    # by hand: dKL/dlogits = (q - p) / n, then back through unembedding and tanh
    hidden = torch.tanh(toy.x_hat @ toy.layer)
    q = toy.logits(toy.x_hat).softmax(-1)
    back = ((q - log_p.exp()) / TOKENS) @ toy.unembedding.T
    by_hand = (back * (1 - hidden.square())) @ toy.layer.T
    torch.testing.assert_close(ours, by_hand, rtol=1e-5, atol=1e-7)

    whole = toy.x_hat.clone().requires_grad_()
    (autograd,) = torch.autograd.grad(
        plain_kl(toy.logits(toy.x), toy.logits(whole)), whole
    )
    torch.testing.assert_close(ours, autograd, rtol=1e-5, atol=1e-7)

    step = 1e-6
    for row in range(TOKENS):
        for column in range(D_IN):
            moved = []
            for sign in (1, -1):
                changed = toy.x_hat.clone()
                changed[row, column] += sign * step
                moved.append(plain_kl(toy.logits(toy.x), toy.logits(changed)))
            difference = float(moved[0] - moved[1]) / (2 * step)
            assert float(ours[row, column]) == pytest.approx(
                difference, rel=1e-4, abs=1e-7
            )


def test_equal_logits_have_a_kl_of_exactly_0() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    assert float(kl_divergence(logits.log_softmax(-1), logits)) == 0


@settings(max_examples=40, deadline=None)
@given(
    mse=st.floats(1e-3, 1e3),
    kl=st.floats(0.1, 50),
    later=st.floats(1e-3, 50),
    loss=st.sampled_from(["kl", "kl+mse", "e2e"]),
)
def test_every_loss_has_the_value_of_the_mse(
    mse: float, kl: float, later: float, loss: str
) -> None:
    parts = [torch.tensor(v, dtype=torch.float64) for v in (mse, kl, later)]
    objective = Objective(loss, kl=0.5, downstream=2.5)  # pyright: ignore[reportArgumentType]
    value, scale = objective.value(*parts, d_in=D_IN)
    assert float(value) == pytest.approx(mse, rel=1e-6)
    if loss != "e2e":
        assert float(scale) * kl == pytest.approx(mse, rel=1e-6)


def test_sum_is_the_published_formula() -> None:
    toy = OneLayer()
    x, x_hat = toy.x.float(), toy.x_hat.float().requires_grad_()

    def logits(values: Tensor) -> Tensor:
        return torch.tanh(values @ toy.layer.float()) @ toy.unembedding.float()

    published, kl, mse, alpha = kl_and_mse(x, x_hat, logits(x), logits(x_hat))
    ours_kl = kl_divergence(logits(x).log_softmax(-1), logits(x_hat))
    value, scale = Objective("kl+mse").value(mse, ours_kl, None, d_in=D_IN)
    torch.testing.assert_close(ours_kl, kl)
    torch.testing.assert_close(scale, alpha)
    torch.testing.assert_close(value, published)
    torch.testing.assert_close(
        torch.autograd.grad(value, x_hat, retain_graph=True),
        torch.autograd.grad(published, x_hat),
    )


def test_gradient_of_e2e_is_along_that_of_its_parts() -> None:
    generator = torch.Generator().manual_seed(2)
    x_hat = torch.randn(3, D_IN, generator=generator).requires_grad_()
    x = torch.randn(3, D_IN, generator=generator)
    mse = (x_hat - x).pow(2).sum(-1).mean()
    kl, later = x_hat.pow(2).mean(), x_hat.sin().pow(2).mean()
    objective = Objective("e2e", kl=0.5, downstream=2.5, mse=0.3)
    value, scale = objective.value(mse, kl, later, d_in=D_IN)
    wanted = 0.5 * kl + 2.5 * later + 0.3 * F.mse_loss(x_hat, x)
    (ours,) = torch.autograd.grad(value, x_hat, retain_graph=True)
    (plain,) = torch.autograd.grad(wanted, x_hat)
    torch.testing.assert_close(ours, scale * plain)


def test_error_of_later_layers_is_a_mean_over_layers_tokens_and_dimensions() -> None:
    clean = [torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)]
    patched = [torch.full((2, 3, 4), 1.0), torch.full((2, 3, 4), 3.0)]
    assert float(later_error(clean, patched)) == 5
