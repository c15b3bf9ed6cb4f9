"""Latents that fired in a step, for dense and sparse activations."""

from __future__ import annotations

import torch
from typing_extensions import override

from saereg_plugin.component import Component, Step


def firing_counts(step: Step) -> torch.Tensor:
    """
    Return in how many rows of the batch each latent is above 0, int64 [d_sae].

    The same for a dense step, a sparse one, and SAELens' sparse activations
    (``use_sparse_activations``) of the same values.
    """
    d_sae = step.sae.cfg.d_sae
    fired = _fired_pairs(step)
    if fired is not None:
        return torch.bincount(fired, minlength=d_sae)
    return (step.feature_acts.detach() > 0).reshape(-1, d_sae).sum(dim=0)


def fired_latents(step: Step) -> torch.Tensor:
    """Return which latents are above 0 in at least one row of the batch, bool [d_sae]."""
    d_sae = step.sae.cfg.d_sae
    fired = _fired_pairs(step)
    if fired is not None:
        mask = torch.zeros(d_sae, dtype=torch.bool, device=fired.device)
        return mask.index_fill_(0, fired, True)
    # the largest value of a column: no matrix of comparisons
    return step.feature_acts.detach().reshape(-1, d_sae).amax(dim=0) > 0


def dense(acts: torch.Tensor) -> torch.Tensor:
    """Return SAELens' activations as a dense matrix (``use_sparse_activations`` makes others)."""
    return acts.to_dense() if acts.is_sparse else acts


def _fired_pairs(step: Step) -> torch.Tensor | None:
    """Return the latent of each (row, latent) that fired, or None if activations are dense."""
    if step.active is not None:
        return step.active.selected.latents[step.active.acts.detach() > 0]
    acts = step.feature_acts.detach()
    if not acts.is_sparse:
        return None
    acts = acts.coalesce()
    return acts.indices()[-1][acts.values() > 0]


class FiringRateComponent(Component):
    """
    A component that keeps ``h <- decay h + (1 - decay) f``, f the batch's firing rate.

    The average starts at 0 and is not corrected for that: after t steps a latent of
    constant rate f has ``h = (1 - decay^t) f``. A forward pass computes the new average,
    the optimiser's step makes it the old one: passes without a step count nothing.

    Args:
        d_sae: number of latents.
        decay: weight of the past, in [0, 1).
    """

    rate: torch.Tensor
    """h after the last optimiser step, float32 [d_sae]; checkpointed."""

    def __init__(self, d_sae: int, *, decay: float, label: str, seed: int = 0):
        super().__init__(label=label, seed=seed)
        self.decay = decay
        self.register_buffer("rate", torch.zeros(d_sae))
        self._next_rate: torch.Tensor | None = None

    @torch.no_grad()
    def new_rate(self, step: Step) -> torch.Tensor:
        """Return h with the activations of ``step`` in it, float32 [d_sae]."""
        fired = batch_firing_rate(step).to(self.rate.device)
        self._next_rate = (self.rate * self.decay).add_(fired, alpha=1 - self.decay)
        return self._next_rate

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._next_rate is not None:
            self.rate.copy_(self._next_rate)
            self._next_rate = None


def batch_firing_rate(step: Step) -> torch.Tensor:
    """
    Return the share of the batch's rows on which each latent is above 0, float32 [d_sae].

    A dense and a sparse step of the same activations give the same numbers: both divide
    a whole count by the number of rows.
    """
    return firing_counts(step).float() / step.sae_in.shape[:-1].numel()
