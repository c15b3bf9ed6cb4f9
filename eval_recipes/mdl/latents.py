"""Cost of each latent's code against what the latent reconstructs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eval_recipes.mdl.code import CodeLength
from eval_recipes.mdl.tally import HeldOutCodes

_NORMAL = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class LatentBalance:
    """
    What each latent costs and is worth, a row; all [d_sae], float64 but for ``fires``.

    Attributes:
        fires: rows on which it fires, int64.
        firing_bits: ``H_b(p)``.
        value_bits: ``p H(bin | fired)``.
        gain: by how much the mean squared error, per row and dimension, rises without it.
        relative: the same as a share of that error.
        worth: bits that this is worth at the exchange rate.
        error: standard error of worth minus cost, over contexts.
    """

    fires: Tensor
    firing_bits: Tensor
    value_bits: Tensor
    gain: Tensor
    relative: Tensor
    worth: Tensor
    error: Tensor

    @property
    def cost(self) -> Tensor:
        """Bits of the code."""
        return self.firing_bits + self.value_bits

    @property
    def net(self) -> Tensor:
        """What it is worth minus what it costs."""
        return self.worth - self.cost

    @property
    def alive(self) -> Tensor:
        """Whether it fires at all, bool."""
        return self.fires > 0

    @property
    def unpaid(self) -> Tensor:
        """Whether it fires and costs more than it is worth, bool."""
        return self.alive & (self.net < 0)

    @property
    def low(self) -> Tensor:
        """Lower end of the 95 % interval of ``net``."""
        return self.net - _NORMAL * self.error

    @property
    def high(self) -> Tensor:
        """Upper end of the 95 % interval of ``net``."""
        return self.net + _NORMAL * self.error

    @property
    def break_even(self) -> Tensor:
        """Bits per 1 % of the error at which it would pay; infinite without a gain."""
        percent = 100 * self.relative
        paid = self.alive & (percent > 0)
        rate = self.cost / torch.where(paid, percent, 1)
        return torch.where(paid, rate, torch.inf)


def latent_balance(
    held: HeldOutCodes, length: CodeLength, *, exchange_rate: float | None
) -> LatentBalance:
    """
    Return the balance of every latent, each against all others in place.

    With N rows, MSE per row and dimension and a rise delta_j if only latent j is set to zero, a
    latent is worth ``d_in / 2 log2(1 + delta_j / MSE)``: what coding the residual as white
    Gaussian noise to a fixed precision costs more without it. With an exchange rate R it is worth
    ``R 100 delta_j / MSE``.

    Args:
        held: the codes.
        length: of the quantised codes.
        exchange_rate: bits that 1 % of the error is worth.
    """
    codes, rows = held.codes, len(held.codes)
    sums = codes.selected.latent_sums
    gains = held.gains()
    error = held.residual.sum()
    relative = sums(gains) / error
    # no rise can be -1 or less: the error that is left is not negative, but for rounding
    kept = (1 + relative).clamp(min=1e-12)
    if exchange_rate is None:
        worth = held.d_in / 2 * torch.log2(kept)
        slope = held.d_in / (2 * torch.log(torch.tensor(2.0)).double() * kept)
    else:
        worth = 100 * exchange_rate * relative
        slope = torch.full_like(relative, 100 * exchange_rate)
    firing_bits, value_bits = length.per_latent(codes)
    # to first order, a pair's part in worth minus cost; the error of all is taken as known
    parts = slope[codes.latents] * gains * (rows / error)
    parts = parts - length.firing - length.value
    return LatentBalance(
        fires=codes.counts(),
        firing_bits=firing_bits,
        value_bits=value_bits,
        gain=sums(gains) / (rows * held.d_in),
        relative=relative,
        worth=worth,
        error=_standard_error(held, parts),
    )


def _standard_error(held: HeldOutCodes, parts: Tensor) -> Tensor:
    """
    Return the standard error over contexts of each latent's mean part a row, [d_sae].

    It is that of a ratio of sums over contexts: ``sqrt(C / (C - 1) sum_c (s_c - m n_c)^2) / N``
    with s_c the parts of context c, n_c its rows and m the mean. NaN with a single context.
    """
    latents, contexts = held.codes.latents, held.pair_contexts
    d_sae, n = held.codes.d_sae, held.n_contexts
    rows = torch.bincount(held.contexts, minlength=n).double()
    total = int(rows.sum())
    cells, place = torch.unique(latents * n + contexts, return_inverse=True)
    s = torch.zeros(len(cells), dtype=torch.float64).index_add_(0, place, parts)
    of_latent, of_context = cells // n, cells % n
    zero = torch.zeros(d_sae, dtype=torch.float64)
    mean = zero.index_add(0, of_latent, s) / total
    # over the contexts where it fires, then those where it does not
    own = (s - mean[of_latent] * rows[of_context]).square()
    squares = zero.index_add(0, of_latent, own)
    seen = zero.index_add(0, of_latent, rows[of_context].square())
    squares = squares + mean.square() * (rows.square().sum() - seen)
    if n < 2:
        return torch.full_like(zero, torch.nan)
    return (n / (n - 1) * squares).sqrt() / total
