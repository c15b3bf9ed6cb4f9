"""The activations of the selected latents, for losses on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from saereg_plugin.kernels.selected import Selected


@dataclass(frozen=True)
class ActiveLatents:
    """
    The latent activations of a sparse step.

    Attributes:
        selected: the active (row, latent) pairs.
        acts: their activations, [n], with gradients; not rescaled.
        W_dec: the decoder if the SAE has ``rescale_acts_by_decoder_norm``, else None.
    """

    selected: Selected
    acts: torch.Tensor
    W_dec: torch.Tensor | None

    @cached_property
    def values(self) -> torch.Tensor:
        """Activations as the SAE sees them, rescaled if it rescales, [n], with gradients."""
        if self.W_dec is None:
            return self.acts
        return self.acts * self.W_dec.norm(dim=-1)[self.selected.latents]
