"""SAEs with random decoders, as sparse as a trained SAE."""

from __future__ import annotations

import copy
from typing import Any

import torch
from sae_lens import SAE, GatedSAE, JumpReLUSAE, StandardSAE, TopKSAE
from torch import Tensor

KINDS = (TopKSAE, JumpReLUSAE, StandardSAE, GatedSAE)
"""Architectures that have a random control."""
_MOST_VALUES = 1 << 26


@torch.no_grad()
def random_decoder(sae: SAE[Any], sample: Tensor, *, seed: int) -> SAE[Any] | None:
    """
    Return a copy of an SAE with random unit decoder rows and the encoder tied to them.

    The decoder's bias stays. A TopK SAE keeps its k. Others get one threshold for all latents
    at which the copy fires as often as the SAE on ``sample``, activations [rows, d_in].

    Returns:
        None for an architecture that is not in ``KINDS``.
    """
    if not isinstance(sae, KINDS):
        return None
    made: Any = copy.deepcopy(sae)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(made.W_dec.shape, generator=generator)
    rows = torch.nn.functional.normalize(rows, dim=-1).to(made.W_dec)
    made.W_dec.copy_(rows)
    made.W_enc.copy_(rows.T)
    if isinstance(made, GatedSAE):
        made.r_mag.zero_()
        made.b_mag.zero_()
        made.b_gate.fill_(-_threshold(sae, made, sample))
        return made
    made.b_enc.zero_()
    if isinstance(made, JumpReLUSAE):
        made.threshold.fill_(_threshold(sae, made, sample))
    if isinstance(made, StandardSAE):
        made.b_enc.fill_(-_threshold(sae, made, sample))
    return made


def _threshold(sae: SAE[Any], made: Any, sample: Tensor) -> float:
    """Return the threshold on the copy's encoder at which both fire equally often."""
    rows = sample[: max(1, _MOST_VALUES // sae.cfg.d_sae)].to(sae.device)
    fired = int((sae.encode(rows) != 0).sum())
    values = (made.process_sae_in(rows) @ made.W_enc).flatten()
    # the first value that must not fire; a latent never fires below 0
    rank = values.numel() - fired
    found = float(values.kthvalue(rank).values) if rank else 0.0
    return max(0.0, found)
