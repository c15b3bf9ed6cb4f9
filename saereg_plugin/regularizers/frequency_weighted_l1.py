"""L1 weighted by how often a latent fires (FreqSAE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from sae_lens import StandardTrainingSAEConfig
from typing_extensions import override

from saereg_plugin.component import Component, Step
from saereg_plugin.config import RegularizerConfig, count, number
from saereg_plugin.errors import InputError
from saereg_plugin.firing import dense, firing_counts
from saereg_plugin.registry import register_regularizer

_FREQUENT = 0.1


@register_regularizer("frequency_weighted_l1")
@dataclass(frozen=True, kw_only=True)
class FrequencyWeightedL1(RegularizerConfig):
    """
    ``coefficient * mean_i sum_j (1 + beta_t f_j) |z_ij|``.

    FreqSAE's sparsity loss: f is the running firing rate,
    ``f <- decay f + (1 - decay) mean_i 1[z_ij > 0]`` from 0, one update in a training
    step, this batch included; ``beta_t = beta * min(1, t / beta_warm_up_steps)`` after t
    completed steps. No gradient goes through f. It takes the place of SAELens' own L1,
    so ``regularized_standard`` needs ``l1_coefficient=0``.

    Args:
        beta: further charge of a latent that always fires, 0 or more. The paper's values
            are .1, .2 and .5.
        beta_warm_up_steps: optimiser steps over which beta rises from 0.
        decay: weight of the past in f, at least 0 and below 1.
        times_decoder_norm: multiply ``|z_ij|`` by the norm of decoder row j, as
            SAELens' own L1 does. The paper has unit-norm rows, where it changes nothing;
            with free rows and without it, activations can shrink while rows grow.
    """

    needs_all_pre_activations: ClassVar[bool] = False

    beta: float = number(0.1, lambda v: v >= 0, "a finite number, 0 or more")
    beta_warm_up_steps: int = count(1000, least=0)
    decay: float = number(0.99, lambda v: 0 <= v < 1, "at least 0 and below 1")
    times_decoder_norm: bool = False

    @override
    def check(self, sae_cfg: Any) -> None:
        if self.times_decoder_norm and (
            sae_cfg.unit_norm or getattr(sae_cfg, "rescale_acts_by_decoder_norm", False)
        ):
            raise InputError(
                f"{self.name}: times_decoder_norm=True, but the activations are already those of a "
                "decoder with rows of norm 1 (decoder_constraint='unit_norm' or "
                "rescale_acts_by_decoder_norm=True). Set times_decoder_norm=False."
            )
        if isinstance(sae_cfg, StandardTrainingSAEConfig) and sae_cfg.l1_coefficient:
            raise InputError(
                f"{self.name} takes the place of SAELens' own L1, but l1_coefficient is "
                f"{sae_cfg.l1_coefficient} (SAELens' default is 1.0), so activations would be "
                "charged twice. Set l1_coefficient=0."
            )

    def beta_after(self, steps: int) -> float:
        """Return beta after ``steps`` completed optimiser steps."""
        if steps < self.beta_warm_up_steps:
            return self.beta * steps / self.beta_warm_up_steps
        return self.beta

    @override
    def build(
        self, sae_cfg: Any, *, label: str, seed: int
    ) -> FrequencyWeightedL1Module:
        return FrequencyWeightedL1Module(self, sae_cfg.d_sae, label=label)


class FrequencyWeightedL1Module(Component):
    """
    The frequency-weighted L1 in training.

    A forward pass computes the new firing rates, and the optimiser's step keeps them, so
    passes without a step count nothing.
    """

    firing_rate: torch.Tensor

    def __init__(self, cfg: FrequencyWeightedL1, d_sae: int, *, label: str):
        super().__init__(label=label)
        self.cfg = cfg
        self.register_buffer("firing_rate", torch.zeros(d_sae))
        self._next_rate: torch.Tensor | None = None

    @override
    def loss(self, step: Step) -> torch.Tensor:
        sums, fired = activation_sums(step)
        batch = step.sae_in.shape[0]
        rate = self.firing_rate.lerp(
            (fired / batch).to(self.firing_rate), 1 - self.cfg.decay
        )
        self._next_rate = rate
        beta = self.cfg.beta_after(step.index)
        coefficient = self.cfg.schedule.value(self.cfg.coefficient, step.index)
        weight = 1 + beta * rate
        if self.cfg.times_decoder_norm:
            sums = sums * step.sae.W_dec.norm(dim=-1)
        penalty = (sums * weight).sum() / batch
        self.logged = {
            "coefficient": coefficient,
            "beta": beta,
            "penalty": penalty.detach(),
            "mean_rate": rate.mean(),
            "max_rate": rate.max(),
            "frequent_latents": (rate > _FREQUENT).sum(),
        }
        return coefficient * penalty

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._next_rate is not None:
            self.firing_rate.copy_(self._next_rate)
            self._next_rate = None


def activation_sums(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return each latent's summed activation (with gradients) and the rows in which it fired.

    Returns:
        Two [d_sae] tensors in float32 or better. Activations are never negative, so the
        first is also the sum of their absolute values.
    """
    if step.active is not None:
        sums = step.active.selected.latent_sums(step.active.values)
    else:
        acts = dense(step.feature_acts)
        # summed first and weighted after: no second [batch, d_sae] matrix
        dtype = torch.promote_types(acts.dtype, torch.float32)
        sums = acts.sum(dim=0, dtype=dtype)
    return sums, firing_counts(step).to(sums.dtype)
