"""A running average of how often each latent fires."""

from __future__ import annotations

import torch
from typing_extensions import override

from saereg_plugin.component import Component, Step
from saereg_plugin.firing import firing_counts


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


_AXES: dict[str, int] = {
    "W_enc": 1,
    "W_dec": 0,
    "b_enc": 0,
    "b_gate": 0,
    "b_mag": 0,
    "r_mag": 0,
    "threshold": 0,
}


WEIGHTS: dict[str, tuple[str, ...]] = {
    "encoder": ("W_enc",),
    "decoder": ("W_dec",),
    "both": ("W_enc", "W_dec"),
}
"""Names of the weight matrices that a ``target`` stands for."""


def latent_axis(name: str) -> int | None:
    """Return the axis of parameter ``name`` that counts latents; None for ``b_dec``."""
    return _AXES.get(name)


def along_latents(values: torch.Tensor, name: str) -> torch.Tensor:
    """Shape one value a latent, [d_sae], to be multiplied with parameter ``name``."""
    return values[:, None] if name == "W_dec" else values
