"""SAEs that are taken out of a sweep because a loss was not finite."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sae_lens.saes.sae import TrainStepOutput

STOPPED = "stopped"
"""Folder of their last good checkpoints."""


@dataclass(frozen=True)
class Stopped:
    """Why an SAE was taken out of a sweep."""

    sae_id: str
    step: int
    loss: str
    checkpoint_step: int | None

    def __str__(self) -> str:
        last = (
            "no checkpoint was written before"
            if self.checkpoint_step is None
            else f"its last good checkpoint, of step {self.checkpoint_step}, is kept in "
            f"{STOPPED}/{self.sae_id}"
        )
        return f"{self.sae_id}: {self.loss} is not finite in step {self.step}; {last}"


def non_finite_loss(output: TrainStepOutput) -> str | None:
    """Return the name of the first loss that is NaN or infinite, if any is."""
    for name, value in {**output.losses, "loss": output.loss}.items():
        if not torch.isfinite(value):
            return name
    return None
