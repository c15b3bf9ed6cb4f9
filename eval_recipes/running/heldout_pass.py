"""One pass along the held-out text for SAEs on one hook."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from sae_lens import SAE, ActivationsStore
from sae_lens.util import get_special_token_ids
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.results.subject import Subject
from eval_recipes.running.activation_source import Source, check_hook, source_of
from eval_recipes.running.context import RunContext
from eval_recipes.statistics.interval import Array, ContextSums, concatenate
from saereg_plugin.errors import InputError
from saereg_plugin.sources import corpora
from saereg_plugin.sources.models import LanguageModel


class Tally(Protocol):
    """Sums of one SAE along the held-out text."""

    sae: SAE[Any]

    def update(self, activations: Tensor, keep: Tensor) -> None:
        """Add one batch: activations (contexts, tokens, d_in), keep (contexts, tokens)."""


class Passed(NamedTuple):
    """The text of one pass, and sums of the activations themselves."""

    kept: ContextSums
    """Of the tokens that are not special."""
    special: ContextSums
    context_size: int
    tokens: Tensor
    """Ids of the tokens that the SAEs saw, int32 (contexts, tokens)."""


T = TypeVar("T", bound=Tally)
R = TypeVar("R")


def per_context(values: Tensor, keep: Tensor) -> Array:
    """Sum the kept values of each context in float64, shape (contexts,)."""
    return torch.where(keep, values, 0).double().sum(1).numpy()


def _context_sums(activations: Tensor, keep: Tensor) -> ContextSums:
    """Sum activations (contexts, tokens, d_in) over the kept tokens, in float64."""
    x = activations.double().cpu() * keep[..., None]
    return ContextSums(
        count=keep.double().sum(1).numpy(),
        total=x.sum(1).numpy(),
        square=x.square().sum((1, 2)).numpy(),
    )


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@torch.no_grad()
def _tally_source(
    context: RunContext,
    source: Source,
    tallies: dict[str, T],
    failures: dict[str, str],
) -> Passed:
    """
    Run tallies along the activations they share; one that fails is moved to ``failures``.

    Raises:
        InputError: if the hook or the held-out text is unusable for all of them.
    """
    model = context.models.get(
        source.model_name,
        dtype=context.dtype,
        device=context.device,
        model_kwargs=source.model_kwargs,
    )
    check_hook(model, source.hook_name)
    store = heldout_store(
        model, next(iter(tallies.values())).sae, source, corpus=context.corpus
    )
    special = torch.tensor(get_special_token_ids(model.tokenizer))  # pyright: ignore[reportArgumentType]
    contexts = math.ceil(context.heldout_tokens / source.context_size)
    batches = token_batches(
        store, contexts=contexts, batch_size=context.batch_size_prompts
    )

    kept: list[ContextSums] = []
    left_out: list[ContextSums] = []
    ids: list[Tensor] = []
    n_batches = math.ceil(contexts / context.batch_size_prompts)
    for tokens in tqdm(batches, desc="held-out text", total=n_batches):
        activations = store.get_activations(tokens)
        seen = tokens[:, slice(*source.seqpos_slice)].cpu()
        keep = ~torch.isin(seen, special)
        kept.append(_context_sums(activations, keep))
        left_out.append(_context_sums(activations, ~keep))
        ids.append(seen.int())
        for sae_id, tally in list(tallies.items()):
            try:
                tally.update(activations.to(tally.sae.device), keep)
            except Exception as error:
                failures[sae_id] = _cause(error)
                del tallies[sae_id]
    if not kept:
        raise InputError(
            f"Corpus {context.corpus!r} has no held-out text of "
            f"{source.context_size} tokens; expected at least one context. Choose "
            "a longer text or a smaller context_size."
        )
    return Passed(
        concatenate(kept), concatenate(left_out), source.context_size, torch.cat(ids)
    )


def tally_heldout(
    context: RunContext,
    subjects: Iterable[Subject],
    start: Callable[[str, SAE[Any]], T],
    finish: Callable[[T, Passed], R],
    *,
    bytes_per_latent: int = 0,
) -> tuple[dict[str, R], dict[str, str]]:
    """
    Run a tally per SAE along the held-out text; SAEs on one hook share a pass.

    SAEs are in memory until their pass is over; where they would take more than half of the
    bound on memory together, they go along the text in several passes.

    ``start`` makes what runs along the text from ``sae_id`` and SAE; ``finish`` turns it into a
    result after the last batch. ``bytes_per_latent`` is what a tally holds for each latent. Ids of
    the SAEs differ.

    Returns:
        Results by ``sae_id``, and the cause for each SAE that has none.
    """
    failures: dict[str, str] = {}
    results: dict[str, R] = {}
    sources: dict[Source, dict[str, T]] = {}
    order: list[str] = []
    held = 0

    def run_passes() -> None:
        for source in sorted(sources, key=lambda source: source.model_name):
            # Popped, so that SAEs already measured can be freed.
            tallies = sources.pop(source)
            try:
                passed = _tally_source(context, source, tallies, failures)
            except Exception as error:
                failures.update(dict.fromkeys(tallies, _cause(error)))
                continue
            for sae_id, tally in tallies.items():
                try:
                    results[sae_id] = finish(tally, passed)
                except Exception as error:
                    failures[sae_id] = _cause(error)

    for subject in subjects:
        order.append(subject.sae_id)
        try:
            sae = subject.load(context.device)
            source = source_of(sae, context_size=context.context_size)
            tally = start(subject.sae_id, sae)
        except Exception as error:
            failures[subject.sae_id] = _cause(error)
            continue
        size = sum(weight.nbytes for weight in sae.state_dict().values())
        size += bytes_per_latent * int(sae.cfg.d_sae)
        if sources and held + size > context.memory_gib * 2**30 / 2:
            run_passes()
            held = 0
        held += size
        sources.setdefault(source, {})[subject.sae_id] = tally
    run_passes()
    return {sae_id: results[sae_id] for sae_id in order if sae_id in results}, failures


logger = logging.getLogger(__name__)


def heldout_store(
    model: LanguageModel, sae: SAE[Any], source: Source, *, corpus: str
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
