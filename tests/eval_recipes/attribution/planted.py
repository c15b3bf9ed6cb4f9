"""A model whose loss reads two dimensions, and SAEs that reconstruct its activations exactly."""

from __future__ import annotations

from typing import Any

import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

D_IN = 16
READ = (0, 1)
"""Dimensions of the activations that the unembedding reads."""
HOOK = "blocks.0.hook_resid_post"
CONTEXT_SIZE = 32


def planted_model(tokenizer: Any, d_vocab: int, *, scale: float) -> HookedTransformer:
    """
    One layer of attention without normalisation, with the tokenizer of another model.

    ``scale`` is the size of its activations: effects on the loss are of first order if it is small.
    """
    config = HookedTransformerConfig(
        n_layers=1,
        d_model=D_IN,
        n_ctx=CONTEXT_SIZE,
        d_head=8,
        n_heads=2,
        d_vocab=d_vocab,
        attn_only=True,
        normalization_type=None,
        seed=0,
        device="cpu",
    )
    model = HookedTransformer(config, tokenizer=tokenizer)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.W_E.copy_(scale * torch.randn(d_vocab, D_IN, generator=generator))
        model.W_pos.mul_(scale)
        model.W_U.zero_()
        model.W_U[list(READ)] = torch.randn(len(READ), d_vocab, generator=generator)
    return model.eval()


def signed_identity(model_name: str, order: Tensor | None = None) -> StandardSAE:
    """
    An SAE with a latent for each dimension and sign, so that x_hat is x.

    Latent j of the result is latent ``order[j]`` of the plain one, in which latents d and
    ``D_IN + d`` are dimension d and its negative.
    """
    metadata = SAEMetadata(
        model_name=model_name,
        hook_name=HOOK,
        context_size=CONTEXT_SIZE,
        prepend_bos=True,
    )
    sae = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=2 * D_IN, metadata=metadata))
    rows = torch.cat([torch.eye(D_IN), -torch.eye(D_IN)])
    rows = rows if order is None else rows[order]
    sae.W_dec.data = rows.clone()
    sae.W_enc.data = rows.T.contiguous()
    sae.b_enc.data.zero_()
    sae.b_dec.data.zero_()
    return sae
