"""The published loop of KL and MSE fine-tuning (arXiv 2503.17272), written plainly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


class PlainTopK:
    """A TopK SAE with decoder rows of norm 1."""

    def __init__(
        self, W_enc: Tensor, W_dec: Tensor, b_enc: Tensor, b_dec: Tensor, k: int
    ) -> None:
        self.W_enc, self.W_dec = W_enc.clone(), W_dec.clone()
        self.b_enc, self.b_dec = b_enc.clone(), b_dec.clone()
        self.k = k
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    def parameters(self) -> list[Tensor]:
        return [self.W_enc, self.W_dec, self.b_enc, self.b_dec]

    def __call__(self, x: Tensor) -> Tensor:
        pre = ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()
        values, latents = pre.topk(self.k, dim=-1)
        acts = torch.zeros_like(pre).scatter(-1, latents, values)
        return acts @ self.W_dec + self.b_dec


def kl_and_mse(
    x: Tensor, x_hat: Tensor, base_logits: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """
    Return loss, KL, MSE and alpha as the published code computes them.

    MSE is summed over dimensions, as SAELens has it; the code averages. KL is a mean over
    tokens; the code sums over the tokens of a text. Alpha takes the second difference away.
    """
    base_probs = F.softmax(base_logits, dim=-1)
    log_probs = F.log_softmax(logits, dim=-1)
    kl_loss = F.kl_div(log_probs, base_probs, reduction="batchmean", log_target=False)
    mse_loss = (x_hat - x).pow(2).sum(-1).mean()
    alpha_kl = (mse_loss / (kl_loss + 1e-8)).detach()
    loss = (kl_loss * alpha_kl + mse_loss) * 0.5
    return loss, kl_loss, mse_loss, alpha_kl


def finetune_plainly(
    sae: PlainTopK,
    batches: list[Tensor],
    rest_of_model: Callable[[int, Tensor], Tensor],
    *,
    lr: float,
    weight_decay: float = 0.01,
) -> list[tuple[float, float]]:
    """
    Train on each batch of activations [n, d_in]; return loss and KL of each step.

    ``rest_of_model`` returns the logits of a batch, by number, with activations in place.
    """
    optimizer = torch.optim.AdamW(sae.parameters(), lr=lr, weight_decay=weight_decay)
    steps, losses = len(batches), []
    for step, x in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        with torch.no_grad():
            base_logits = rest_of_model(step, x)
        x_hat = sae(x)
        loss, kl, _, _ = kl_and_mse(x, x_hat, base_logits, rest_of_model(step, x_hat))
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            rows, gradient = sae.W_dec, sae.W_dec.grad
            assert gradient is not None
            unit = rows / rows.norm(dim=-1, keepdim=True)
            gradient -= (gradient * unit).sum(-1, keepdim=True) * unit
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            sae.W_dec /= sae.W_dec.norm(dim=-1, keepdim=True)
        losses.append((float(loss.detach()), float(kl.detach())))
    return losses
