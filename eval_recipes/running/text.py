"""The held-out text as batches of tokens, each token once."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from sae_lens import SAE, ActivationsStore
from torch import Tensor
from transformer_lens import HookedTransformer

from eval_recipes.running.activation_source import Source
from saereg_plugin.sources import corpora

logger = logging.getLogger(__name__)


def heldout_store(
    model: HookedTransformer, sae: SAE[Any], source: Source, *, corpus: str
) -> ActivationsStore:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Dataset is not tokenized")
        return ActivationsStore(
            model=model,
            dataset=corpora.load(corpus, "heldout", streaming=True),
            streaming=True,
            hook_name=source.hook_name,
            hook_head_index=source.hook_head_index,
            context_size=source.context_size,
            d_in=sae.cfg.d_in,
            n_batches_in_buffer=1,
            total_training_tokens=0,
            store_batch_size_prompts=1,
            train_batch_size_tokens=1,
            prepend_bos=source.prepend_bos,
            normalize_activations="none",
            device=torch.device("cpu"),
            dtype="float32",
            seqpos_slice=source.seqpos_slice,
            disable_concat_sequences=source.disable_concat_sequences,
            sequence_separator_token=source.sequence_separator_token,  # pyright: ignore[reportArgumentType]
        )


def token_batches(
    store: ActivationsStore, *, contexts: int, batch_size: int
) -> Iterator[Tensor]:
    """
    Yield tokens of shape (<= batch_size, context) until the text ends.

    The store repeats a text that is too short; the same token would then count
    twice and the interval would be too narrow.
    """
    rows: list[Tensor] = []
    for _ in range(contexts):
        try:
            rows.append(store.get_batch_tokens(1, raise_at_epoch_end=True))
        except StopIteration:
            logger.warning("The held-out text ended early")
            break
        if len(rows) == batch_size:
            yield torch.cat(rows)
            rows = []
    if rows:
        yield torch.cat(rows)
