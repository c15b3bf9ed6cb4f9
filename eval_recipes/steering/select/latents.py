"""Directions, pre-activation slopes and hook of an SAE's latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.steering.generate.prompts import Prompt, encode_prompts
from saereg_plugin.errors import InputError


@dataclass(frozen=True)
class Latents:
    """Chosen latents of an SAE, in float32 on the CPU whatever the SAE's dtype and device."""

    ids: tuple[int, ...]
    directions: Tensor
    """dec_j / ||dec_j|| [latent, d_model]."""
    slopes: Tensor
    """<enc_j, dec_j / ||dec_j||> [latent]: the rise of latent j's pre-activation at strength 1."""
    cosines: Tensor
    """cos(enc_j, dec_j) [latent]."""
    hook_name: str
    prepend_bos: bool
    """Whether the SAE was trained with BOS in front of a text."""
    normalised: str = "none"
    """How the SAE scales its input before the encoder."""

    def prompts(self, tokenizer: Any, texts: Sequence[str]) -> list[Prompt]:
        """Tokenise prompts as the SAE saw texts."""
        return encode_prompts(tokenizer, texts, prepend_bos=self.prepend_bos)


def read_latents(sae: SAE[Any], ids: Sequence[int]) -> Latents:
    """
    Read latents from a SAELens SAE.

    Raises:
        InputError: if a latent is missing or writes nothing, or the SAE is a transcoder.
    """
    metadata = sae.cfg.metadata
    if getattr(sae.cfg, "d_out", None) is not None:
        raise InputError(
            f"The SAE is a {sae.cfg.architecture()}, which reads and writes at different "
            "places; expected an SAE."
        )
    if not metadata.hook_name:
        raise InputError(
            "The SAE's metadata names no hook; expected hook_name, such as "
            "'blocks.4.hook_resid_post'."
        )
    n_latents = sae.W_dec.shape[0]
    wrong = [latent for latent in ids if not 0 <= latent < n_latents]
    if wrong or not ids:
        raise InputError(
            f"Latents {wrong[:5]} were asked for; expected one or more ids below {n_latents}."
        )
    chosen = torch.tensor(ids, device=sae.W_dec.device)
    decoder = sae.W_dec.detach()[chosen].float().cpu()
    encoder = sae.W_enc.detach()[:, chosen.to(sae.W_enc.device)].float().cpu().T
    norms = decoder.norm(dim=1, keepdim=True)
    empty = [latent for latent, norm in zip(ids, norms[:, 0], strict=True) if not norm]
    if empty:
        raise InputError(
            f"The decoder rows of latents {empty[:5]} are zero; expected latents that write."
        )
    directions = decoder / norms
    slopes = (encoder * directions).sum(1)
    return Latents(
        ids=tuple(ids),
        directions=directions,
        slopes=slopes,
        # a zero encoder has no direction, hence a cosine of 0
        cosines=slopes / encoder.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny),
        hook_name=metadata.hook_name,
        prepend_bos=metadata.get("prepend_bos", True) is not False,
        normalised=sae.cfg.normalize_activations,
    )


def random_directions(n: int, d_model: int, *, seed: int) -> Tensor:
    """Return unit vectors of uniformly random direction [n, d_model]: a control."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, d_model, generator=generator)
    return drawn / drawn.norm(dim=1, keepdim=True)
