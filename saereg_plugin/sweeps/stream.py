"""Shuffled activations for many SAEs from one pass of the language model, resumable exactly."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sae_lens import ActivationsStore
from sae_lens.util import get_special_token_ids
from transformer_lens import HookedTransformer

from saereg_plugin import corpora
from saereg_plugin.sweeps.config import SweepConfig
from saereg_plugin.sweeps.prefetch import Prefetch, has_cores_for_two


class _Pass(NamedTuple):
    """Activations [n, d_in] of one pass, its contexts, and the time it took."""

    activations: torch.Tensor
    contexts: int
    seconds: float


class ActivationStream(Iterator[torch.Tensor]):
    """
    Batches [batch_size, d_in] of float32 activations at one hook.

    Like SAELens' mixing buffer: a pool is filled, shuffled, and served down to the share
    that is kept back for mixing. Unlike it, the shuffling has its own generator, and
    ``state_dict`` holds pool, generator and position, so that a resumed run sees the same
    batches as an uninterrupted one. Passes of the language model may be computed ahead in
    another thread; the batches do not depend on it.

    Args:
        store: SAELens' source of tokens and activations; used by one thread at a time.
        sweep: what is trained.
        prefetch: passes computed ahead; None is those of one refill of the buffer, or
            none where there are not the cores for it.
    """

    def __init__(
        self,
        store: ActivationsStore,
        sweep: SweepConfig,
        *,
        prefetch: int | None = None,
    ):
        self._store = store
        self._sweep = sweep
        self._special = special_tokens(store) if sweep.exclude_special_tokens else None
        self._generator = torch.Generator().manual_seed(sweep.seed)
        self._pool = torch.empty(0, store.d_in, device=store.device)
        self._served = 0
        self._contexts = 0
        self.model_seconds = 0.0
        self._model_tokens = 0
        depth = _depth(sweep) if prefetch is None else prefetch
        self._passes = Prefetch(self._run_model, depth)

    @property
    def seconds_per_token(self) -> float:
        """Time of the language model for one activation served, text included."""
        return self.model_seconds / max(self._model_tokens, 1)

    def __next__(self) -> torch.Tensor:
        self._refill()
        batch = self._pool[self._served : self._served + self._sweep.batch_size]
        self._served += self._sweep.batch_size
        return batch

    def close(self) -> None:
        """End the second thread: nothing uses the language model after this."""
        self._passes.close()

    def peek(self) -> torch.Tensor:
        """Return the activations that are waiting to be served, [n, d_in]."""
        self._refill()
        return self._pool[self._served :]

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on with the same batches."""
        return {
            "pool": self._pool[self._served :].clone(),
            "generator": self._generator.get_state(),
            "contexts": self._contexts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken; text before it is skipped, not computed."""
        self._pool = state["pool"]
        self._served = 0
        self._generator.set_state(state["generator"])
        while self._contexts < state["contexts"]:
            self._contexts += self._store.get_batch_tokens().shape[0]

    def _refill(self) -> None:
        kept = int(self._sweep.buffer_tokens * self._sweep.mixing_fraction)
        left = self._pool.shape[0] - self._served
        if left - self._sweep.batch_size >= kept:
            return
        parts = [self._pool[self._served :]]
        while left < self._sweep.buffer_tokens:
            part = self._next_activations()
            parts.append(part)
            left += part.shape[0]
        pool = torch.cat(parts)
        if self._sweep.mixing_fraction > 0:
            pool = pool[torch.randperm(pool.shape[0], generator=self._generator)]
        self._pool, self._served = pool, 0

    def _next_activations(self) -> torch.Tensor:
        one = self._passes.take()
        self._contexts += one.contexts
        self.model_seconds += one.seconds
        self._model_tokens += one.activations.shape[0]
        return one.activations

    def _run_model(self) -> _Pass:
        """Make the next pass of the language model, perhaps in another thread."""
        started = time.perf_counter()
        tokens = self._store.get_batch_tokens()
        hook = self._sweep.hook_name
        acts = self._store.get_multi_hook_activations(tokens)[hook]
        acts = acts.reshape(-1, self._store.d_in).float()
        if self._special is not None:
            acts = acts[~torch.isin(tokens.reshape(-1), self._special)]
        return _Pass(acts, tokens.shape[0], time.perf_counter() - started)


def _depth(sweep: SweepConfig) -> int:
    """Return how many passes of the language model to compute ahead."""
    if not has_cores_for_two():
        return 0
    refill = sweep.buffer_tokens * (1 - sweep.mixing_fraction)
    return math.ceil(refill / (sweep.prompts_per_pass * sweep.context_size))


def open_store(
    model: HookedTransformer, sweep: SweepConfig, d_in: int
) -> ActivationsStore:
    """Open SAELens' store of tokens and activations for a sweep."""
    dataset = corpora.ensure(sweep.corpus, "train")
    with warnings.catch_warnings():
        # text is tokenised on the fly on purpose
        warnings.filterwarnings("ignore", message="Dataset is not tokenized")
        return ActivationsStore.from_config_multi_hook(
            model=model,
            dataset=dataset,
            hook_names=[sweep.hook_name],
            hook_d_ins={sweep.hook_name: d_in},
            streaming=not Path(dataset).exists(),
            context_size=sweep.context_size,
            total_training_tokens=sweep.tokens,
            store_batch_size_prompts=sweep.prompts_per_pass,
            train_batch_size_tokens=sweep.batch_size,
            prepend_bos=sweep.prepend_bos,
            disable_concat_sequences=sweep.disable_concat_sequences,
            device=sweep.device,
            dataset_trust_remote_code=False,
        )


def special_tokens(store: ActivationsStore) -> torch.Tensor:
    """Return the ids of the model's special tokens."""
    tokenizer: Any = store.model.tokenizer
    return torch.tensor(get_special_token_ids(tokenizer), device=store.device)
