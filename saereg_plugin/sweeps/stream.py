"""Stream of shuffled activations for many SAEs, exactly resumable."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from sae_lens import ActivationsStore
from sae_lens.pretokenize_runner import get_special_token_from_cfg
from sae_lens.util import get_special_token_ids

from saereg_plugin.errors import InputError
from saereg_plugin.regularizers.token_order import crosses_documents
from saereg_plugin.sources import corpora
from saereg_plugin.sources.models import LanguageModel
from saereg_plugin.sweeps.config import SweepConfig


class _Pass(NamedTuple):
    """
    Activations [n, d_in] of one pass of the model, its number of contexts, and its time.

    If pairs are counted, ``crossing`` [n] marks rows t whose pair (t - 1, t) crosses documents.
    """

    activations: torch.Tensor
    contexts: int
    seconds: float
    crossing: torch.Tensor | None


class ActivationStream(Iterator[torch.Tensor]):
    """
    Batches [batch_size, d_in] of float32 activations at one hook.

    Works as SAELens' mixing buffer: a pool is filled, shuffled, and served down to the share
    that is kept back for mixing. Shuffling has its own generator. ``state_dict`` holds pool,
    generator and position, so that a resumed run sees the same batches. Another thread may
    compute passes of the language model ahead, which changes no batch.

    Args:
        store: SAELens' source of tokens and activations; used by one thread at a time.
        sweep: what is trained.
        prefetch: passes computed ahead; None is those of one refill of the buffer, or 0
            without enough cores.
        count_pairs: count the served pairs of neighbouring tokens, and the pairs that lie
            in two documents; tokens must come in whole contexts.
    """

    def __init__(
        self,
        store: ActivationsStore,
        sweep: SweepConfig,
        *,
        prefetch: int | None = None,
        count_pairs: bool = False,
    ):
        self._store = store
        self._sweep = sweep
        self._separator = _separator(store) if count_pairs else None
        self._crossing = torch.empty(0, dtype=torch.bool, device=store.device)
        self._pairs = self._crossing_pairs = 0
        self._special = _special_tokens(store) if sweep.exclude_special_tokens else None
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
        """Time of the language model per served activation, with reading of text."""
        return self.model_seconds / max(self._model_tokens, 1)

    def __next__(self) -> torch.Tensor:
        self._refill()
        end = self._served + self._sweep.batch_size
        batch = self._pool[self._served : end]
        if self._separator is not None:
            contexts = self._sweep.batch_size // self._sweep.context_size
            self._pairs += contexts * max(self._sweep.context_size - 2, 0)
            self._crossing_pairs += int(self._crossing[self._served : end].sum())
        self._served = end
        return batch

    def pairs_across_documents(self) -> dict[str, Any] | None:
        """
        Return the number of served pairs of neighbouring tokens, and of crossing pairs.

        A pair is (t - 1, t) within a context, t >= 2. ``share`` is None before the first
        batch. Return None if pairs are not counted.
        """
        if self._separator is None:
            return None
        share = self._crossing_pairs / self._pairs if self._pairs else None
        return {"crossing": self._crossing_pairs, "pairs": self._pairs, "share": share}

    def close(self) -> None:
        """End the second thread; the language model is not used afterwards."""
        self._passes.close()

    def peek(self) -> torch.Tensor:
        """Return the activations that are waiting to be served, [n, d_in]."""
        self._refill()
        return self._pool[self._served :]

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which the same batches follow."""
        state: dict[str, Any] = {
            "pool": self._pool[self._served :].clone(),
            "generator": self._generator.get_state(),
            "contexts": self._contexts,
        }
        if self._separator is not None:
            state["crossing"] = self._crossing[self._served :].clone()
            state["pairs"] = (self._pairs, self._crossing_pairs)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Resume from a ``state_dict``; earlier text is skipped without computing it.

        Raises:
            InputError: if pairs are counted now and were not then.
        """
        if self._separator is not None:
            if "pairs" not in state:
                raise InputError(
                    "The checkpoint comes from a version that did not count the pairs of tokens across "
                    "documents. Train into another folder."
                )
            self._crossing = state["crossing"]
            self._pairs, self._crossing_pairs = state["pairs"]
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
        crossing = [self._crossing[self._served :]]
        while left < self._sweep.buffer_tokens:
            part = self._next_activations()
            parts.append(part.activations)
            if part.crossing is not None:
                crossing.append(part.crossing)
            left += part.activations.shape[0]
        pool, self._crossing = torch.cat(parts), torch.cat(crossing)
        if self._sweep.mixing_fraction > 0:
            pool = pool[torch.randperm(pool.shape[0], generator=self._generator)]
        self._pool, self._served = pool, 0

    def _next_activations(self) -> _Pass:
        one = self._passes.take()
        self._contexts += one.contexts
        self.model_seconds += one.seconds
        self._model_tokens += one.activations.shape[0]
        return one

    def _run_model(self) -> _Pass:
        """Make the next pass of the language model, perhaps in another thread."""
        started = time.perf_counter()
        tokens = self._store.get_batch_tokens()
        hook = self._sweep.hook_name
        acts = self._store.get_multi_hook_activations(tokens)[hook]
        acts = acts.reshape(-1, self._store.d_in).float()
        if self._special is not None:
            acts = acts[~torch.isin(tokens.reshape(-1), self._special)]
        crossing = None
        if self._separator is not None:
            crossing = crosses_documents(tokens, self._separator).reshape(-1)
        return _Pass(acts, tokens.shape[0], time.perf_counter() - started, crossing)


def _depth(sweep: SweepConfig) -> int:
    """Return how many passes of the language model to compute ahead."""
    if not _has_cores_for_two():
        return 0
    refill = sweep.buffer_tokens * (1 - sweep.mixing_fraction)
    return math.ceil(refill / (sweep.prompts_per_pass * sweep.context_size))


def open_store(model: LanguageModel, sweep: SweepConfig, d_in: int) -> ActivationsStore:
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


def _separator(store: ActivationsStore) -> int:
    """Return the id of the token that SAELens puts between documents of a context."""
    tokenizer: Any = store.model.tokenizer
    separator = get_special_token_from_cfg(store.sequence_separator_token, tokenizer)
    if separator is None:
        raise InputError(
            "Pairs of tokens across documents cannot be counted: the store separates documents by no "
            "token (sequence_separator_token=None)."
        )
    return separator


def _special_tokens(store: ActivationsStore) -> torch.Tensor:
    """Return the ids of the model's special tokens."""
    tokenizer: Any = store.model.tokenizer
    return torch.tensor(get_special_token_ids(tokenizer), device=store.device)


T = TypeVar("T")

_CORES_FOR_TWO = 4


def _has_cores_for_two() -> bool:
    """Return whether this process may use the cores that two computations need."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) >= _CORES_FOR_TWO
    return (os.cpu_count() or 1) >= _CORES_FOR_TWO


class Prefetch(Generic[T]):
    """
    Results of a function, computed in a background thread ahead of ``take``.

    Results come in the order of the calls. An error of a call is raised by the ``take``
    that would have returned its result.

    Args:
        produce: makes the next result; one thread calls it at a time.
        depth: number of results computed ahead; 0 computes them in ``take``.
    """

    def __init__(self, produce: Callable[[], T], depth: int):
        self._produce = produce
        self._depth = depth
        self._waiting: deque[Future[T]] = deque()
        self._pool = ThreadPoolExecutor(1, "prefetch") if depth else None

    def take(self) -> T:
        """Return the next result."""
        if self._pool is None:
            return self._produce()
        while len(self._waiting) <= self._depth:
            self._waiting.append(self._pool.submit(self._produce))
        return self._waiting.popleft().result()

    def close(self) -> None:
        """Wait for the running call and drop the others; ends ``take``."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
