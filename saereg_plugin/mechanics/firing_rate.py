"""How often each latent fires: in a batch, and on a running average."""

from __future__ import annotations

import torch

from saereg_plugin.component import Component, Step


def batch_firing_rate(step: Step) -> torch.Tensor:
    """
    Return the share of the batch's rows on which each latent is above 0, float32 [d_sae].

    A dense and a sparse step of the same activations give the same numbers: both divide
    a whole count by the number of rows.
    """
    d_sae = step.sae.cfg.d_sae
    if step.active is not None:
        fired = step.active.selected.latents[step.active.acts.detach() > 0]
        counts = torch.bincount(fired, minlength=d_sae)
    else:
        acts = step.feature_acts.detach()
        if acts.is_sparse:
            acts = acts.coalesce()
            fired = acts.indices()[-1][acts.values() > 0]
            counts = torch.bincount(fired, minlength=d_sae)
        else:
            counts = (acts > 0).reshape(-1, d_sae).sum(dim=0)
    return counts.float() / step.sae_in.shape[:-1].numel()


class FiringRateComponent(Component):
    """
    A component that keeps ``h <- decay h + (1 - decay) f``, f the batch's firing rate.

    The average starts at 0 and is not corrected for that: after t steps a latent of
    constant rate f has ``h = (1 - decay^t) f``.

    Args:
        d_sae: number of latents.
        decay: weight of the past, in [0, 1).
    """

    rate: torch.Tensor
    """h, float32 [d_sae]; checkpointed."""

    def __init__(self, d_sae: int, *, decay: float, label: str, seed: int = 0):
        super().__init__(label=label, seed=seed)
        self.decay = decay
        self.register_buffer("rate", torch.zeros(d_sae))

    @torch.no_grad()
    def update_rate(self, step: Step) -> None:
        """Take a step's activations into the average."""
        fired = batch_firing_rate(step).to(self.rate.device)
        self.rate.mul_(self.decay).add_(fired, alpha=1 - self.decay)
