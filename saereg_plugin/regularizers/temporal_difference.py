"""Change of activations between neighbouring tokens (TemporalSAE)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from sae_lens import TrainingSAE
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saereg_plugin.component import Component, Step
from saereg_plugin.config import RegularizerConfig, RunSettings, choice, number
from saereg_plugin.errors import InputError
from saereg_plugin.firing import dense
from saereg_plugin.kernels.encode import ActiveLatents
from saereg_plugin.registry import register_regularizer
from saereg_plugin.regularizers.activation_penalty import BatchReduction
from saereg_plugin.regularizers.token_order import (
    context_size_of,
    require_order_settings,
    require_token_order,
    without_starts,
)

AverageStart = Literal["zero", "first_loss"]
_ENTRIES = 2**18


@register_regularizer("temporal_difference")
@dataclass(frozen=True, kw_only=True)
class TemporalDifference(RegularizerConfig):
    """
    ``coefficient * alpha_t * mean || z_p - z_(p-1) ||^2`` over neighbouring tokens p - 1, p.

    TemporalSAE's penalty with its adaptive weight, in training step t:
    ``alpha_t = sigmoid(sharpness * (beta_t - L_t))`` with
    ``beta_t = decay beta_(t-1) + (1 - decay) L_t`` and L_t the squared error, mean over
    the elements of the batch as the SAE sees it. No gradient goes through alpha: with
    one, a larger error would lower the penalty.

    Both tokens of a pair lie in the same context and neither is its position 0 (BOS),
    which is left out of the whole step, the reconstruction loss included. Batches must
    be whole contexts in order: SAELens' ``activations_mixing_fraction=0``. That is
    proved from every batch before it changes a weight.

    Args:
        decay: gamma, at least 0 and below 1.
        sharpness: of the sigmoid, 0 or more.
        average_start: beta before the first step: ``zero``, with which alpha is small
            until the error has fallen, or ``first_loss``.
        reduction: over the pairs of the batch: ``mean`` | ``sum``.
        context_size: tokens of a context where the SAE's metadata does not say it
            (SAELens' runners write it there).
    """

    needs_all_pre_activations: ClassVar[bool] = False
    needs_token_order: ClassVar[bool] = True

    decay: float = number(0.99, lambda v: 0 <= v < 1, "at least 0 and below 1")
    sharpness: float = number(5.0, lambda v: v >= 0, "a finite number, 0 or more")
    average_start: AverageStart = choice("zero", AverageStart)
    reduction: BatchReduction = choice("mean", BatchReduction)
    context_size: int | None = None

    @override
    def check(self, sae_cfg: Any) -> None:
        if sae_cfg.max_norm_multiple is not None:
            raise InputError(
                f"{self.name} needs whole contexts, but max_norm_multiple="
                f"{sae_cfg.max_norm_multiple} takes rows out of them. Set max_norm_multiple=None: "
                "position 0, the usual outlier, is left out by this regulariser itself."
            )
        if (
            sum(isinstance(each, TemporalDifference) for each in sae_cfg.regularizers)
            > 1
        ):
            raise InputError(
                f"{self.name} is given twice; each would leave out position 0 of what the other "
                "left. Add their coefficients."
            )

    @override
    def check_run(self, settings: RunSettings) -> None:
        require_order_settings(settings, self.context_size, self.label or self.name)

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> TemporalDifferenceModule:
        return TemporalDifferenceModule(self, label=label)


class TemporalDifferenceModule(Component):
    """
    The temporal difference in training.

    A forward pass computes the new running average of the error, and the optimiser's step
    keeps it, so passes without a step count nothing.
    """

    average_loss: torch.Tensor
    started: torch.Tensor

    def __init__(self, cfg: TemporalDifference, *, label: str):
        super().__init__(label=label)
        self.cfg = cfg
        self.register_buffer("average_loss", torch.tensor(0.0))
        self.register_buffer("started", torch.tensor(0, dtype=torch.uint8))
        self._context_size = 0
        self._n_contexts = 0
        self._may_cross = 0.0
        self._next_average: torch.Tensor | None = None

    @override
    def setup(self, sae: TrainingSAE[Any]) -> None:
        metadata = sae.cfg.metadata
        self._context_size = context_size_of(
            metadata, self.cfg.context_size, self.label
        )
        self._may_cross = 0.0 if metadata.disable_concat_sequences else 1.0

    @override
    def prepare(self, sae_in: torch.Tensor) -> torch.Tensor:
        require_token_order(sae_in, self._context_size, self.label)
        self._n_contexts = sae_in.shape[0] // self._context_size
        return without_starts(sae_in, self._context_size)

    @override
    def loss(self, step: Step) -> torch.Tensor:
        length = self._context_size - 1
        if step.sae_in.shape[0] != self._n_contexts * length:
            raise InputError(
                f"{self.label}: {self._n_contexts * length} rows were to be trained on, but "
                f"{step.sae_in.shape[0]} were: another component takes rows out of the contexts. "
                "Leave it out."
            )
        alpha, average = self._weight(step)
        if step.active is not None:
            total = squared_differences_of_active(step.active, length)
        else:
            total = squared_differences(dense(step.feature_acts), length)
        pairs = self._n_contexts * (length - 1)
        coefficient = self.cfg.schedule.value(self.cfg.coefficient, step.index)
        self._next_average = average
        self.logged = {
            "coefficient": coefficient,
            "alpha": alpha,
            "average_loss": average,
            "mean_difference": total.detach() / pairs,
            "pairs": float(pairs),
            "pairs_may_cross_documents": self._may_cross,
        }
        penalty = total if self.cfg.reduction == "sum" else total / pairs
        return coefficient * alpha * penalty

    @torch.no_grad()
    def _weight(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """Return alpha and beta of this step."""
        error = (step.sae_out.float() - step.sae_in.float()).square().mean()
        past = self.average_loss
        if self.cfg.average_start == "first_loss":
            past = torch.where(self.started > 0, past, error)
        average = self.cfg.decay * past + (1 - self.cfg.decay) * error
        return torch.sigmoid(self.cfg.sharpness * (average - error)), average

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._next_average is not None:
            self.average_loss.copy_(self._next_average)
            self.started.fill_(1)
            self._next_average = None


def squared_differences(acts: torch.Tensor, length: int) -> torch.Tensor:
    """
    Return ``sum || z_t - z_(t-1) ||^2`` over neighbouring rows of the same sequence.

    Args:
        acts: z, sequences one after the other, [n length, d_sae].
        length: rows of a sequence; no pair crosses from one to the next.

    Returns:
        A scalar in float32 or better.
    """
    return cast(torch.Tensor, _SquaredDifferences.apply(acts, length))


class _SquaredDifferences(torch.autograd.Function):
    """The sum block by block: nothing of size [batch, d_sae] but the gradient itself."""

    @override
    @staticmethod
    def forward(ctx: Any, acts: torch.Tensor, length: int) -> torch.Tensor:
        ctx.save_for_backward(acts)
        ctx.length = length
        total = acts.new_zeros((), dtype=_float_of(acts))
        for _, difference in _differences(acts, length):
            total += difference.square().sum()
        return total

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (acts,) = ctx.saved_tensors
        result = torch.zeros_like(acts)
        for start, difference in _differences(acts, ctx.length):
            end = start + difference.shape[0]
            difference.mul_(2 * grads[0])
            result[start:end] -= difference
            result[start + 1 : end + 1] += difference
        return result, None


def _differences(acts: torch.Tensor, length: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield first rows and ``z_(t+1) - z_t`` of blocks of rows, 0 from one sequence to the next."""
    n_pairs = acts.shape[0] - 1
    block = max(1, n_pairs)
    if acts.device.type == "cpu":
        # the results of several operations on a block stay in the cache
        block = max(1, _ENTRIES // acts.shape[1])
    dtype = _float_of(acts)
    for start in range(0, n_pairs, block):
        end = min(start + block, n_pairs)
        difference = acts[start + 1 : end + 1].to(dtype) - acts[start:end]
        first_crossing = (length - 1 - start) % length
        difference[first_crossing::length] = 0
        yield start, difference


def _float_of(acts: torch.Tensor) -> torch.dtype:
    return torch.promote_types(acts.dtype, torch.float32)


def squared_differences_of_active(active: ActiveLatents, length: int) -> torch.Tensor:
    """
    Return ``squared_differences`` of a sparse step, in time of its selected pairs.

    A latent selected in one of two neighbouring rows only contributes its square.

    Args:
        active: the selected (row, latent) pairs, rows as in ``squared_differences``.
        length: rows of a sequence.
    """
    selected, values = active.selected, active.values
    if values.numel() == 0:
        return values.sum()
    position = selected.rows % length
    # ascending, since pairs are sorted by row and then by latent
    keys = selected.rows * selected.d_sae + selected.latents
    wanted = keys + selected.d_sae
    found = torch.searchsorted(keys, wanted).clamp_(max=keys.numel() - 1)
    has_next = position < length - 1
    again = has_next & (keys[found] == wanted)
    following = torch.where(again, values[found], 0.0)
    ends = (following - values)[has_next].square().sum()
    is_new = position > 0
    is_new[found[again]] = False
    return ends + values[is_new].square().sum()
