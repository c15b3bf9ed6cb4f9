"""Tokens whose logits a latent raises and lowers most."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from torch import Tensor

from saereg_plugin.sources.models import LanguageModel

_WRITERS = re.compile(
    r"blocks\.\d+\.(hook_resid_(pre|mid|post)|hook_attn_out|hook_mlp_out)$"
)
"""Hooks whose vectors are added to the residual stream as they are, or are the stream."""

_CHUNK_VALUES = 1 << 25


class ExtremeLogits(NamedTuple):
    """The tokens with the most extreme logits of each latent, extreme first."""

    top_ids: NDArray[np.int64]
    """Shape [d_sae, n]; n is 0 where the hook does not write to the residual stream."""
    top: NDArray[np.float32]
    bottom_ids: NDArray[np.int64]
    bottom: NDArray[np.float32]


def writes_to_residual(sae: SAE[Any], model: LanguageModel) -> bool:
    """Return whether decoder rows are directions of the residual stream."""
    if getattr(sae.cfg, "d_out", None) is not None:
        # a transcoder, which writes elsewhere
        return False
    hook = str(sae.cfg.metadata.hook_name)
    same_width = sae.W_dec.shape[1] == model.cfg.d_model
    return _WRITERS.match(hook) is not None and same_width


@torch.no_grad()
def folded_unembedding(model: LanguageModel) -> Tensor:
    """
    Return the unembedding with the final norm folded in, float32 [d_model, vocabulary].

    Row i is multiplied by weight i of the final norm; for a LayerNorm the mean over the rows is
    then subtracted, as the norm subtracts a vector's mean. The norm's division by the length of
    the residual stream and all biases are left out: they belong to a token, not to a latent.
    Columns without a token of the tokenizer (padding) are left out.
    """
    unembedding = model.W_U.detach().float().cpu()
    norm: Any = model.ln_final
    weight = getattr(norm, "w", None)
    if isinstance(weight, Tensor):
        # TransformerBridge keeps Gemma's weights as published: 1 is added to them
        offset = 1.0 if getattr(model.cfg, "rmsnorm_uses_offset", False) else 0.0
        unembedding = unembedding * (weight.detach().float().cpu() + offset)[:, None]
    if _subtracts_mean(model):
        unembedding = unembedding - unembedding.mean(0)
    return unembedding[:, : len(model.tokenizer)]  # pyright: ignore[reportArgumentType]


def _subtracts_mean(model: LanguageModel) -> bool:
    is_rms = getattr(model.ln_final, "uses_rms_norm", None)
    if is_rms is not None:
        return not is_rms
    return str(model.cfg.normalization_type).startswith("LN")


@torch.no_grad()
def extreme_logits(rows: Tensor, unembedding: Tensor, n: int) -> ExtremeLogits:
    """
    Return the ``n`` largest and smallest of ``rows @ unembedding`` for each row.

    Args:
        rows: decoder rows [d_sae, d_model].
        unembedding: see ``folded_unembedding``.
        n: tokens on either side; at most the vocabulary.
    """
    n = min(n, unembedding.shape[1])
    step = max(1, _CHUNK_VALUES // unembedding.shape[1])
    found: list[tuple[Tensor, ...]] = []
    for part in rows.detach().float().cpu().split(step):
        logits = part @ unembedding
        top, bottom = logits.topk(n), logits.topk(n, largest=False)
        found.append((top.indices, top.values, bottom.indices, bottom.values))
    return ExtremeLogits(*(torch.cat(each).numpy() for each in zip(*found)))


def no_logits(d_sae: int) -> ExtremeLogits:
    """Return no logits for each latent."""
    ids, values = np.zeros((d_sae, 0), np.int64), np.zeros((d_sae, 0), np.float32)
    return ExtremeLogits(ids, values, ids, values)
