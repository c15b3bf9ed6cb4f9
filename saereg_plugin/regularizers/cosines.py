"""Penalties on cosines of decoder rows, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import nn
from typing_extensions import override

from saereg_plugin.component import Component, Step
from saereg_plugin.config import RegularizerConfig, count
from saereg_plugin.kernels.blocks import row_blocks, row_norms

BLOCK_ENTRIES = 1 << 23
"""Cosines held at once: 32 MiB in float32."""


class Directions(NamedTuple):
    """Rows of a matrix taken apart, in float32 or better."""

    unit: torch.Tensor
    """[n, d] rows of norm 1; a zero row stays zero."""
    inverse_norms: torch.Tensor
    """[n, 1]; 0 for a zero row, which so gets no gradient."""

    @classmethod
    def of(cls, rows: torch.Tensor) -> Directions:
        """Take ``rows`` [n, d] apart, without a graph."""
        rows = rows.detach()
        norms = row_norms(rows)[:, None]
        inverse = torch.where(norms > 0, norms.reciprocal(), 0.0)
        return cls(rows * inverse, inverse)


def cosine_gradient_(
    own: Directions, pull: torch.Tensor, along: torch.Tensor, scale: float
) -> torch.Tensor:
    """
    Turn ``pull`` in place into the gradient of ``scale * sum_ik w_ik cos(r_i, e_k)``.

    With r_i the rows and u_i, e_k unit vectors, d cos(r_i, e_k) / d r_i is
    ``(e_k - cos(r_i, e_k) u_i) / ||r_i||``.

    Args:
        own: the rows r, [n, d].
        pull: ``sum_k w_ik e_k``, [n, d].
        along: ``sum_k w_ik cos(r_i, e_k)``, [n].
        scale: a factor.
    """
    if pull.device.type != "cpu":
        return pull.addcmul_(own.unit, along[:, None], value=-1).mul_(
            own.inverse_norms * scale
        )
    start = 0
    for part, unit in row_blocks(pull, own.unit):
        rows = slice(start, start + len(part))
        part.addcmul_(unit, along[rows, None], value=-1)
        part.mul_(own.inverse_norms[rows] * scale)
        start = rows.stop
    return pull


class _Best:
    """The best partner of each of ``n`` rows so far."""

    def __init__(self, n: int, like: torch.Tensor):
        self.value = like.new_full((n,), float("-inf"))
        self.index = torch.zeros(n, dtype=torch.long, device=like.device)

    def by_rows(self, start: int, block: torch.Tensor, first_column: int) -> None:
        """Compare with a block of rows that begins at row ``start``."""
        rows = slice(start, start + len(block))
        value, index = block.max(dim=1)
        better = value > self.value[rows]
        self.value[rows] = torch.where(better, value, self.value[rows])
        self.index[rows] = torch.where(better, index + first_column, self.index[rows])

    def by_columns(self, start: int, block: torch.Tensor, first_row: int) -> None:
        """Compare with a block of columns that begins at row ``start``."""
        if block.numel() == 0:
            return
        top = block.amax(dim=0)
        better = (top > self.value[start : start + len(top)]).nonzero().squeeze(1)
        # the place of a maximum is five times as dear along columns: only where it is new
        found = block.t().index_select(0, better).max(dim=1)
        self.value[start + better] = found.values
        self.index[start + better] = found.indices + first_row


class Partners(NamedTuple):
    """Best partners of the rows of A among those of B, and of B among those of A."""

    a_to_b: torch.Tensor
    """[n_a] int64, argmax_j cos(a_i, b_j)."""
    b_to_a: torch.Tensor
    """[n_b] int64, argmax_i cos(a_i, b_j)."""


def best_partners(
    a: torch.Tensor, b: torch.Tensor, *, block_entries: int = BLOCK_ENTRIES
) -> Partners:
    """
    Return best partners by signed cosine, from one streamed product.

    Args:
        a: unit rows, [n_a, d].
        b: unit rows, [n_b, d].
        block_entries: cosines held at once.
    """
    of_a, of_b = _Best(len(a), a), _Best(len(b), b)
    step = max(1, block_entries // len(b))
    for start in range(0, len(a), step):
        block = a[start : start + step] @ b.T
        of_a.by_rows(start, block, 0)
        of_b.by_columns(0, block, start)
    return Partners(of_a.index, of_b.index)


def nearest_others(
    rows: torch.Tensor, *, absolute: bool = False, block_entries: int = BLOCK_ENTRIES
) -> torch.Tensor:
    """
    Return for each row the other row of largest cosine, int64 [n].

    Each pair's cosine is computed once: half of the full product.

    Args:
        rows: unit rows, [n >= 2, d].
        absolute: compare absolute cosines.
        block_entries: cosines held at once.
    """
    n = len(rows)
    best = _Best(n, rows)
    step = max(1, block_entries // n)
    for start in range(0, n, step):
        height = min(step, n - start)
        block = rows[start : start + height] @ rows[start:].T
        if absolute:
            block.abs_()
        block.diagonal().fill_(float("-inf"))
        best.by_rows(start, block, start)
        best.by_columns(start + height, block[:, height:], start)
    return best.index


@dataclass(frozen=True, kw_only=True)
class DirectionalConfig(RegularizerConfig):
    """
    Configuration of a penalty on the cosines of decoder rows.

    Args:
        every: apply the penalty in every n-th step only, n times as strong. The mean over
            steps is the same, at an n-th of the cost.
    """

    needs_all_pre_activations: ClassVar[bool] = False

    every: int = count(1)

    def strength(self, step: int) -> float:
        """Return the factor of the penalty after ``step`` completed steps; 0 if it rests."""
        if step % self.every:
            return 0.0
        return self.every * self.schedule.value(self.coefficient, step)


class DirectionalPenalty(Component):
    """
    A penalty that only depends on the directions of W_dec's rows.

    Its value carries no graph: the gradient has a closed form and is added to
    ``W_dec.grad``. A subclass implements ``measure``.
    """

    def __init__(self, cfg: DirectionalConfig, *, label: str, seed: int = 0):
        super().__init__(label=label, seed=seed)
        self.cfg = cfg
        self.strength = 0.0
        self.direction: torch.Tensor | None = None

    def measure(
        self, step: Step, own: Directions
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Return the penalty, a scalar, and its gradient by W_dec, [d_sae, d_in] or None for 0.

        Values in ``self.logged`` are logged until the next call.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement measure().")

    @override
    @torch.no_grad()
    def loss(self, step: Step) -> torch.Tensor:
        self.direction = None
        self.strength = self.cfg.strength(step.index)
        rows = step.sae.W_dec
        if step.index % self.cfg.every:
            return torch.zeros((), device=rows.device)
        value, self.direction = self.measure(step, Directions.of(rows))
        return self.strength * value

    @override
    def metrics(self) -> dict[str, torch.Tensor | float]:
        return {"coefficient": self.strength, **self.logged}

    @override
    def gradient(self, name: str, parameter: nn.Parameter) -> None:
        if name != "W_dec" or parameter.grad is None or self.direction is None:
            return
        if self.strength != 0:
            parameter.grad.add_(
                self.direction.to(parameter.grad.dtype), alpha=self.strength
            )

    @override
    def before_step(self, lr: float) -> None:
        # as large as W_dec: not to be held while the next batch is computed
        self.direction = None
