"""Losses of a fine-tune: KL divergence, MSE, and both at one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["mse", "kl", "kl+mse", "e2e"]

EPSILON = 1e-8
"""Added to what MSE is divided by, as in arXiv 2503.17272's code."""


@dataclass(frozen=True)
class Objective:
    """
    The part of an SAE's loss that stands in place of its MSE.

    With a = (MSE / (f + 1e-8)).detach(), so that ``a f`` has the value of the MSE:

    - ``mse``: MSE, the control;
    - ``kl+mse``: (a KL + MSE) / 2 (arXiv 2503.17272);
    - ``kl``: a KL;
    - ``e2e``: a f of f = ``kl`` KL + ``downstream`` D + ``mse`` MSE / d_in, where D is the
      mean over later layers of the squared error of their resid_pre, averaged over tokens and
      dimensions (arXiv 2405.12241; the scale a is ours).

    The value is the MSE's in each of them, so penalties keep their weight.
    """

    loss: Loss = "kl+mse"
    kl: float = 0.5
    downstream: float = 2.5
    mse: float = 0.0

    @property
    def reads_logits(self) -> bool:
        """Whether the language model must run to its end."""
        return self.loss != "mse"

    @property
    def reads_later_layers(self) -> bool:
        """Whether activations of later layers are compared."""
        return self.loss == "e2e" and self.downstream > 0

    def value(
        self, mse: Tensor, kl: Tensor, later: Tensor | None, *, d_in: int
    ) -> tuple[Tensor, Tensor]:
        """
        Return the loss, and a, the scale of what is not MSE.

        Args:
            mse: squared error summed over d_in, mean over tokens; in units of the SAE.
            kl: divergence, mean over tokens.
            later: D, where ``reads_later_layers``.
            d_in: width of the activations.
        """
        if self.loss == "e2e":
            found = self.kl * kl + self.mse * mse / d_in
            if later is not None:
                found = found + self.downstream * later
            scale = (mse / (found + EPSILON)).detach()
            return scale * found, scale
        scale = (mse / (kl + EPSILON)).detach()
        if self.loss == "kl":
            return scale * kl, scale
        return (scale * kl + mse) / 2, scale


def kl_divergence(log_p: Tensor, logits: Tensor) -> Tensor:
    """
    Return KL(p || softmax(logits)), the mean over tokens, computed in float32.

    Args:
        log_p: log probabilities of the clean model, float32 (n, vocabulary).
        logits: of the model with the reconstruction in place, (n, vocabulary).
    """
    log_q = F.log_softmax(logits.float(), dim=-1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


def later_error(clean: Sequence[Tensor], patched: Sequence[Tensor]) -> Tensor:
    """Return the mean over layers of the squared error, mean over tokens and dimensions."""
    errors = [
        F.mse_loss(there.float(), here.float())
        for here, there in zip(clean, patched, strict=True)
    ]
    return torch.stack(errors).mean()
