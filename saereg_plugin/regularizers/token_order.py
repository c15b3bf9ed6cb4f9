"""Proof, from the activations themselves, that rows are tokens in order."""

from __future__ import annotations

from typing import Any

import torch

from saereg_plugin.config import RunSettings
from saereg_plugin.errors import InputError

_IN_ORDER = (
    "Set activations_mixing_fraction=0 in SAELens' runner configuration (mixing_fraction=0 in "
    "`saereg-bench train`), which serves tokens in order."
)
_MOST_SPREAD = 0.05
"""Largest distance between context starts, relative to that between neighbouring tokens. It
is 0 in order and about 1 if shuffled; rounding costs 1e-5 (whitening) to 0.03 (bfloat16)."""


def require_order_settings(settings: RunSettings, given: int | None, name: str) -> None:
    """
    Refuse a run with settings under which batches are not contexts in order.

    ``require_token_order`` proves the same from the data, once the model is loaded.

    Args:
        settings: of the run.
        given: the regulariser's own ``context_size``.
        name: of the regulariser, for messages.
    """
    if not settings.ordered:
        raise InputError(
            f"{name}: it compares neighbouring tokens, and the rows of the source of kind "
            f"{settings.source_kind!r} have no such order. Train it on a language model."
        )
    size = context_size_of(settings, given, name)
    _require_whole_contexts(settings.batch_size, size, name)
    if settings.mixing_fraction != 0:
        raise InputError(
            f"{name}: tokens would not come in order: a fraction of {settings.mixing_fraction} of the "
            f"activations is kept back and shuffled. {_IN_ORDER}"
        )


def context_size_of(metadata: Any, given: int | None, name: str) -> int:
    """
    Return the context size; refuse contexts that are not whole or do not begin with BOS.

    Args:
        metadata: the SAE's, as SAELens' runner fills it (missing values are not refused),
            or ``RunSettings``.
        given: the size to take if the metadata has none.
        name: of the regulariser, for messages.

    Raises:
        InputError: naming the setting that is wrong.
    """
    size = metadata.context_size
    if size is None:
        size = given
    elif given is not None and given != size:
        raise InputError(
            f"{name}: context_size is {given}, but the SAE's metadata says {size}. "
            "Leave it out: the metadata is what the activations come from."
        )
    if size is None:
        raise InputError(
            f"{name}: the length of a context is unknown. SAELens' runners write it into the SAE's "
            "metadata; without a runner set context_size, here or in cfg.metadata."
        )
    if size < 3:
        raise InputError(
            f"{name}: context_size is {size}; expected at least 3. Position 0 is left out, so a "
            "shorter context has no two neighbouring tokens."
        )
    if metadata.prepend_bos is False:
        raise InputError(
            f"{name}: prepend_bos is False, so where a context starts cannot be seen in the "
            "activations. Set prepend_bos=True."
        )
    if metadata.exclude_special_tokens not in (None, False):
        raise InputError(
            f"{name}: exclude_special_tokens is {metadata.exclude_special_tokens!r}; it takes tokens "
            "out of the contexts. Set exclude_special_tokens=False: position 0 is left out of "
            "training by this regulariser itself."
        )
    sliced = metadata.seqpos_slice
    if sliced is not None and range(size)[slice(*sliced)] != range(size):
        raise InputError(
            f"{name}: seqpos_slice is {tuple(sliced)!r}; it takes positions out of the contexts. "
            "Set seqpos_slice=(None,)."
        )
    return int(size)


def require_token_order(sae_in: torch.Tensor, context_size: int, name: str) -> None:
    """
    Refuse a batch that is not made of whole contexts in order.

    Rows 0, C, 2C, ... are then the same token, BOS, at the same position with nothing
    before it, and so the same activation. They are compared with neighbouring rows, so
    that no scaling or whitening of activations changes the answer.

    Args:
        sae_in: [batch, d_in].
        context_size: C.
        name: of the regulariser, for messages.

    Raises:
        InputError: naming the batch size or ``activations_mixing_fraction``.
    """
    if sae_in.ndim != 2:
        raise InputError(
            f"{name}: activations have the shape {tuple(sae_in.shape)}; expected [batch, d_in]."
        )
    _require_whole_contexts(sae_in.shape[0], context_size, name)
    spread = start_spread(sae_in, context_size)
    # written so that NaN is refused
    if not spread <= _MOST_SPREAD:
        raise InputError(
            f"{name}: tokens do not come in order. Rows 0, {context_size}, {2 * context_size}, ... of a "
            "batch must be the same activation, that of BOS; they differ by "
            f"{spread:.3g} x the distance between neighbouring tokens. {_IN_ORDER} "
            "Contexts of a pretokenised data set must begin with BOS."
        )


def _require_whole_contexts(batch: int, context_size: int, name: str) -> None:
    """Refuse a batch of ``batch`` rows that is not two contexts or more."""
    if batch % context_size != 0:
        raise InputError(
            f"{name}: a batch has {batch} rows, which is no multiple of context_size="
            f"{context_size}, so contexts would be cut at its end. Set train_batch_size_tokens "
            f"(batch_size in `saereg-bench train`) to a multiple of {context_size}, for example "
            f"{max(2, round(batch / context_size)) * context_size}."
        )
    if batch == context_size:
        raise InputError(
            f"{name}: a batch is a single context of {context_size} tokens, from which the order of "
            "tokens cannot be proved. Set train_batch_size_tokens (batch_size in `saereg-bench train`) "
            f"to {2 * context_size} or a larger multiple of {context_size}."
        )


@torch.no_grad()
def start_spread(sae_in: torch.Tensor, context_size: int) -> float:
    """
    Return how far context starts are apart, relative to neighbouring rows; 0 in order.

    The largest distance of row 0 to rows C, 2C, ... over the mean distance of consecutive
    rows; NaN if all rows are equal.
    """
    rows = sae_in.float()
    starts = rows[::context_size]
    apart = (starts[1:] - starts[0]).norm(dim=-1).max()
    typical = (rows[1:] - rows[:-1]).norm(dim=-1).mean()
    return float(apart / typical)


def without_starts(rows: torch.Tensor, context_size: int) -> torch.Tensor:
    """Return ``rows`` [n C, d] without position 0 of each context, [n (C - 1), d]."""
    contexts = rows.reshape(-1, context_size, rows.shape[-1])
    return contexts[:, 1:].reshape(-1, rows.shape[-1])


def crosses_documents(contexts: torch.Tensor, separator: int) -> torch.Tensor:
    """
    Return at which tokens t the pair (t - 1, t) lies in two documents, bool [n, context_size].

    With ``disable_concat_sequences=False`` SAELens fills a context with several
    documents and puts ``sequence_separator_token`` before each but the first. An SAE
    cannot see that token, so this is told where the tokens are known. Position 0 is in no
    pair, so positions 0 and 1 end none.

    Args:
        contexts: token ids, [n, context_size].
        separator: id of the token that begins a document.
    """
    crossing = contexts == separator
    crossing[:, :2] = False
    return crossing
