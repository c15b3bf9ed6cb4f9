"""A norm of the encoder's and decoder's weights (arXiv 2603.04198)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import nn
from typing_extensions import override

from saereg_plugin.architectures.parameters import WEIGHTS
from saereg_plugin.component import Component, Step
from saereg_plugin.config import RegularizerConfig, choice
from saereg_plugin.errors import InputError
from saereg_plugin.firing import fired_latents
from saereg_plugin.kernels.blocks import row_blocks, row_norms
from saereg_plugin.registry import register_regularizer

Norm = Literal["l1", "l2", "frobenius"]
Reduction = Literal["sum", "mean"]

_LEFT = 2.0**-10
"""Share of its largest entry, or of its length, that a row keeps for its direction."""

Target = Literal["encoder", "decoder", "both"]
Mode = Literal["coupled", "decoupled"]
Mask = Literal["none", "batch_active", "alive"]


@register_regularizer("weight_penalty")
@dataclass(frozen=True, kw_only=True)
class WeightPenalty(RegularizerConfig):
    """
    ``coefficient * R(W_enc) + coefficient * R(W_dec)``, never over biases.

    arXiv 2603.04198, the weight regularisation of section 3: with the reduction
    ``sum``, R is ``sum |w|`` (l1), ``sum w^2`` (l2) or ``sqrt(sum w^2)``
    (frobenius, not squared); with ``mean`` it is ``mean |w|``, ``mean w^2`` or
    the root mean square.

    Args:
        norm: ``l1`` | ``l2`` | ``frobenius``.
        target: ``encoder`` | ``decoder`` | ``both``.
        reduction: over the weights kept by ``mask``. The paper's language-model
            runs use sums, its MNIST L1 uses means.
        mode: ``coupled`` adds the penalty to the loss, so Adam rescales its gradient.
            ``decoupled`` takes one step of size lr on the penalty outside Adam: for l2
            before Adam's step (AdamW with a weight decay of twice the coefficient), for l1
            and frobenius after it (proximal maps). See ``WeightNorm.shrink_``.
        mask: which latents' weights count: all, those active in this batch, or
            those that SAELens does not call dead.

    The coefficient depends on the scale of activations: the paper scales them to
    unit mean squared norm; under SAELens' ``expected_average_only_in`` the same
    behaviour needs the coefficient times d_in.
    """

    needs_all_pre_activations: ClassVar[bool] = False

    norm: Norm = choice("l2", Norm)
    target: Target = choice("both", Target)
    reduction: Reduction = choice("sum", Reduction)
    mode: Mode = choice("coupled", Mode)
    mask: Mask = choice("none", Mask)

    @override
    def check(self, sae_cfg: Any) -> None:
        # such a penalty only shortens rows; coupled, "both" is the paper's and shrinks the encoder
        only_lengths = self.norm in ("l2", "frobenius") and sae_cfg.unit_norm
        void = ("decoder",) if self.mode == "coupled" else ("decoder", "both")
        if only_lengths and self.target in void:
            raise InputError(
                f"weight_penalty: a {self.mode} {self.norm} penalty with target={self.target!r} does "
                "nothing to a decoder of unit-norm rows: it only shortens them, and they are kept at "
                "norm 1. Use target='encoder', norm='l1', or decoder_constraint='none'."
            )

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> WeightPenaltyModule:
        return WeightPenaltyModule(self, label=label)


class WeightPenaltyModule(Component):
    """
    The weight penalty in training.

    Its value carries no graph: the gradient has a closed form and is added to
    ``parameter.grad`` in place, a tenth of the cost of differentiating the sum.
    """

    def __init__(self, cfg: WeightPenalty, *, label: str):
        super().__init__(label=label)
        self.cfg = cfg
        self.in_loss = cfg.mode == "coupled"
        self._norm = WeightNorm(cfg.norm, cfg.reduction)
        self._coefficient = 0.0
        self._lr = 0.0
        self._mask: torch.Tensor | None = None

    @override
    def loss(self, step: Step) -> torch.Tensor:
        self._coefficient = self.cfg.schedule.value(self.cfg.coefficient, step.index)
        self._mask = latent_mask(self.cfg.mask, step)
        value = torch.zeros((), device=step.sae.W_enc.device)
        for name in WEIGHTS[self.cfg.target]:
            weight = getattr(step.sae, name).detach()
            mask = _broadcast(self._mask, name)
            value = value + self._norm.value(weight, mask)
        self.logged = {"coefficient": self._coefficient, "penalty": value}
        return self._coefficient * value

    @override
    def gradient(self, name: str, parameter: nn.Parameter) -> None:
        if self.cfg.mode == "decoupled" or name not in WEIGHTS[self.cfg.target]:
            return
        if parameter.grad is None or self._coefficient == 0:
            return
        mask = _broadcast(self._mask, name)
        self._norm.add_gradient(parameter.grad, parameter, mask, self._coefficient)

    @override
    def before_step(self, lr: float) -> None:
        self._lr = lr
        if self.cfg.mode == "decoupled" and self.cfg.norm == "l2":
            self._shrink()

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.cfg.mode == "decoupled" and self.cfg.norm != "l2":
            self._shrink()

    def _shrink(self) -> None:
        cfg = self.sae.cfg
        divided = cfg.unit_norm or getattr(cfg, "rescale_acts_by_decoder_norm", False)
        for name in WEIGHTS[self.cfg.target]:
            self._norm.shrink_(
                getattr(self.sae, name),
                _broadcast(self._mask, name),
                self._coefficient,
                lr=self._lr,
                keep_directions=divided and name == "W_dec",
            )


def latent_mask(mask: Mask, step: Step) -> torch.Tensor | None:
    """Return which latents a penalty covers, bool [d_sae], or None for all."""
    if mask == "none":
        return None
    if mask == "batch_active":
        return fired_latents(step)
    return None if step.dead_mask is None else ~step.dead_mask


def _broadcast(mask: torch.Tensor | None, name: str) -> torch.Tensor | None:
    """Shape a mask over latents for W_enc [d_in, d_sae] or W_dec [d_sae, d_in]."""
    if mask is None:
        return None
    return mask[None, :] if name == "W_enc" else mask[:, None]


class WeightNorm(NamedTuple):
    """A norm R of a weight matrix: its value, its gradient and a step that shrinks it.

    In every method ``mask``, bool and broadcastable to the weights, says which weights
    count; None counts all.
    """

    norm: Norm
    reduction: Reduction

    def value(
        self, weight: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return R(weight), a scalar in float32 or better."""
        kept = weight if mask is None else weight * mask
        total = _entrywise_norm(kept, 1 if self.norm == "l1" else 2)
        return (total**2 if self.norm == "l2" else total) / self._size(weight, mask)

    def add_gradient(
        self,
        gradient: torch.Tensor,
        weight: torch.Tensor,
        mask: torch.Tensor | None,
        coefficient: float,
    ) -> None:
        """Add ``coefficient * dR/dweight`` to ``gradient`` in place."""
        scale = coefficient
        if self.norm == "frobenius":
            kept = weight if mask is None else weight * mask
            length = float(_entrywise_norm(kept, 2))
            if length == 0:
                return
            scale /= length
        scale /= self._size(weight, mask)
        if self.norm == "l2":
            scale *= 2
        if mask is not None:
            direction = weight.sign() if self.norm == "l1" else weight
            gradient.addcmul_(direction, mask.to(direction.dtype), value=scale)
            return
        for part, own in row_blocks(gradient, weight):
            part.add_(own.sign() if self.norm == "l1" else own, alpha=scale)

    def shrink_(
        self,
        weight: torch.Tensor,
        mask: torch.Tensor | None,
        coefficient: float,
        *,
        lr: float,
        keep_directions: bool = False,
    ) -> None:
        """
        Take one step of size ``lr`` on ``coefficient * R`` alone, in place.

        l2 is a gradient step, ``w *= 1 - 2 lr coefficient``, as AdamW decays; l1 and
        frobenius are proximal steps. These make rows exactly 0, unless ``keep_directions``
        says that the rows of ``weight`` are divided by their norms: then a step that would
        take all of a row stops just short of it, which leaves (almost) its largest entry
        alone.
        """
        size = self._size(weight, mask)
        if self.norm == "l1":
            least = _least(weight, lr * coefficient / size, keep_directions)
            shrunk = weight.sign() * (weight.abs() - least).clamp(min=0)
            weight.copy_(shrunk if mask is None else torch.where(mask, shrunk, weight))
            return
        if self.norm == "l2":
            factor = 1 - lr * (2 * coefficient / size)
        else:
            kept = weight if mask is None else weight * mask
            length = float(_entrywise_norm(kept, 2))
            if length == 0:
                return
            left = _LEFT if keep_directions else 0.0
            factor = max(left, 1 - lr * coefficient / (size * length))
        if mask is None:
            weight.mul_(factor)
        else:
            weight.mul_(torch.where(mask, factor, 1.0).to(weight.dtype))

    def _size(self, weight: torch.Tensor, mask: torch.Tensor | None) -> float:
        """Return the divisor that makes a sum over the kept weights a mean."""
        if self.reduction == "sum":
            return 1
        count = weight.numel()
        if mask is not None:
            count = int(mask.sum()) * (count // mask.numel())
        count = max(count, 1)
        return math.sqrt(count) if self.norm == "frobenius" else count


def _entrywise_norm(weight: torch.Tensor, order: int) -> torch.Tensor:
    # row by row: one float32 sum over ten million entries is 0.7 % off on the CPU
    rows = row_norms(weight, order)
    return rows.sum() if order == 1 else rows.square().sum().sqrt()


def _least(
    weight: torch.Tensor, threshold: float, keep_directions: bool
) -> torch.Tensor | float:
    """Return the threshold, of each row [n, 1] if one may not take all of a row."""
    if not keep_directions:
        return threshold
    largest = weight.abs().amax(dim=1, keepdim=True)
    left = max(_LEFT, 2 * torch.finfo(weight.dtype).eps)
    return (largest * (1 - left)).clamp(max=threshold)
