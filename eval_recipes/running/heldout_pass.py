"""One pass along held-out inputs for SAEs on one source."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from sae_lens import SAE, ActivationsStore
from sae_lens.util import get_special_token_ids
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.results.subject import Subject
from eval_recipes.running.activation_source import Source, check_hook, place_of
from eval_recipes.running.context import RunContext
from eval_recipes.running.passes import InputPasses, Passed, RowsTaker, kept_rows
from eval_recipes.running.sources import OtherSource
from eval_recipes.statistics.interval import Array, ContextSums, concatenate
from saereg_plugin.activations.passes import Pass
from saereg_plugin.errors import InputError
from saereg_plugin.machine import resident_bytes, return_freed_memory
from saereg_plugin.sources import corpora
from saereg_plugin.sources.models import LanguageModel


class Tally(Protocol):
    """Sums of one SAE along the held-out inputs."""

    sae: SAE[Any]

    def update(self, activations: Tensor, keep: Tensor) -> None:
        """Add one batch: activations (inputs, rows, d_in), keep (inputs, rows)."""


class OfSAE(Protocol):
    """What is measured of one SAE along a source."""

    sae: SAE[Any]


_HOLES = 2**30
"""Bytes by which a pass may grow before freed memory goes back to the system."""

T = TypeVar("T", bound=Tally)
O = TypeVar("O", bound=OfSAE)
P = TypeVar("P")
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


class TextPasses:
    """
    Passes of a language model over the held-out text, for SAEs on one hook.

    Args:
        context: the run, which names the text and its length.
        source: what the SAEs read.
        sae: one of them.
    """

    name = "held-out text"

    def __init__(self, context: RunContext, source: Source, sae: SAE[Any]) -> None:
        self._context, self._source, self._sae = context, source, sae
        self._model = context.models.get(
            source.model_name,
            dtype=context.dtype,
            device=context.device,
            model_kwargs=source.model_kwargs,
        )
        check_hook(self._model, source.hook_name)
        special = get_special_token_ids(self._model.tokenizer)  # pyright: ignore[reportArgumentType]
        self._special = torch.tensor(special)
        self._contexts = math.ceil(context.heldout_tokens / source.context_size)
        self._at_once = context.batch_size_prompts
        self.total = math.ceil(self._contexts / self._at_once)
        self._ids: list[Tensor] = []

    def __iter__(self) -> Iterator[Pass]:
        first = 0
        for seen, activations in self._batches():
            self._ids.append(seen)
            numbers = torch.arange(first, first + len(seen))
            keep = ~torch.isin(seen, self._special)
            yield Pass({self._source.hook_name: activations}, keep, numbers)
            first += len(seen)
        if not self._ids:
            raise InputError(
                f"Corpus {self._context.corpus!r} has no held-out text of "
                f"{self._source.context_size} tokens; expected at least one context. Choose "
                "a longer text or a smaller context_size."
            )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ids (contexts, tokens) and activations; those of an earlier pass, if kept."""
        kept = kept_rows(self._context, self._source)
        if kept is not None:
            yield from zip(
                kept.seen.split(self._at_once),
                kept.activations.split(self._at_once),
                strict=True,
            )
            return
        store = heldout_store(
            self._model, self._sae, self._source, corpus=self._context.corpus
        )
        taker = RowsTaker(self._context, self._source, contexts=self._contexts)
        for tokens in token_batches(
            store, contexts=self._contexts, batch_size=self._at_once
        ):
            activations = store.get_activations(tokens)
            seen = tokens[:, slice(*self._source.seqpos_slice)].cpu().int()
            taker.take(seen, activations)
            yield seen, activations
        taker.keep()

    def passed(self, kept: ContextSums, special: ContextSums | None) -> Passed:
        """Return what was read."""
        return Passed(kept, special, self._source.context_size, torch.cat(self._ids))


@dataclass(frozen=True)
class Reader(Generic[O]):
    """A tally, and the point whose activations it is given."""

    point: str
    tally: O


class _Sums:
    """Sums of the activations at one point; lists hold one entry a batch of inputs."""

    def __init__(self, point: str, *, with_special: bool) -> None:
        self._point = point
        self._kept: list[ContextSums] = []
        self._special: list[ContextSums] | None = [] if with_special else None

    def update(self, found: Pass) -> None:
        """Add one pass."""
        activations = found.activations[self._point]
        self._kept.append(_context_sums(activations, found.keep))
        if self._special is not None:
            self._special.append(_context_sums(activations, ~found.keep))

    def sums(self) -> tuple[ContextSums, ContextSums | None]:
        """Return the sums of the kept rows, and of the special tokens."""
        special = None if self._special is None else concatenate(self._special)
        return concatenate(self._kept), special


@torch.no_grad()
def _tally_source(
    context: RunContext,
    source: Source | OtherSource,
    readers: dict[str, Reader[T]],
    failures: dict[str, str],
) -> dict[str, Passed]:
    """
    Run tallies along a source that they share; one that fails is moved to ``failures``.

    Returns:
        What was read, by point.

    Raises:
        InputError: if the hook, the held-out text or the source is unusable for all of them.
    """
    points = list(dict.fromkeys(reader.point for reader in readers.values()))
    passes: TextPasses | InputPasses
    if isinstance(source, Source):
        sae = next(iter(readers.values())).tally.sae
        passes = TextPasses(context, source, sae)
    else:
        passes = InputPasses(context, source, points)
    sums = {p: _Sums(p, with_special=isinstance(source, Source)) for p in points}
    before = resident_bytes()
    for found in tqdm(passes, desc=passes.name, total=passes.total):
        for point in points:
            sums[point].update(found)
        for sae_id, reader in list(readers.items()):
            try:
                values = found.activations[reader.point].to(reader.tally.sae.device)
                reader.tally.update(values, found.keep)
            except Exception as error:
                failures[sae_id] = _cause(error)
                del readers[sae_id]
            if resident_bytes() > before + _HOLES:
                return_freed_memory()
    return {point: passes.passed(*each.sums()) for point, each in sums.items()}


def tally_heldout(
    context: RunContext,
    subjects: Iterable[Subject],
    start: Callable[[str, SAE[Any]], T],
    finish: Callable[[T, Passed], R],
    *,
    extra_bytes: Callable[[SAE[Any]], int] = lambda _: 0,
) -> tuple[dict[str, R], dict[str, str]]:
    """
    Run a tally per SAE along its held-out inputs; SAEs on one source share a pass.

    Of a language model that is a hook on a text, of another source all its points.

    ``start`` makes what runs along the inputs from ``sae_id`` and SAE; ``finish`` turns it into a
    result after the last batch. ``extra_bytes`` returns what the tally of an SAE holds. Ids of the
    SAEs differ.

    Returns:
        Results by ``sae_id``, and the cause for each SAE that has none.
    """
    return along_sources(
        context, subjects, start, _tally_source, finish, extra_bytes=extra_bytes
    )


def along_sources(
    context: RunContext,
    subjects: Iterable[Subject],
    start: Callable[[str, SAE[Any]], O],
    along: Callable[
        [RunContext, Source | OtherSource, dict[str, Reader[O]], dict[str, str]],
        dict[str, P],
    ],
    finish: Callable[[O, P], R],
    *,
    extra_bytes: Callable[[SAE[Any]], int] = lambda _: 0,
) -> tuple[dict[str, R], dict[str, str]]:
    """
    Run ``along`` once for all SAEs on one source.

    SAEs are in memory until their pass is over; where they would take more than half of the
    bound on memory together, they go along the inputs in several passes.

    Args:
        context: the run.
        subjects: the SAEs, whose ids differ.
        start: makes what is measured of an SAE, from ``sae_id`` and SAE.
        along: reads a source for its SAEs; moves those that fail to the failures, and returns
            what ``finish`` is given, by point.
        finish: makes an SAE's result after its pass.
        extra_bytes: what is held for an SAE besides its weights.

    Returns:
        Results by ``sae_id``, and the cause for each SAE that has none.
    """
    failures: dict[str, str] = {}
    results: dict[str, R] = {}
    sources: dict[Source | OtherSource, dict[str, Reader[O]]] = {}
    order: list[str] = []
    held = 0

    def run_passes() -> None:
        for source in sorted(sources, key=_model_of):
            # Popped, so that SAEs already measured can be freed.
            readers = sources.pop(source)
            try:
                passed = along(context, source, readers, failures)
            except Exception as error:
                failures.update(dict.fromkeys(readers, _cause(error)))
                continue
            for sae_id, reader in readers.items():
                try:
                    results[sae_id] = finish(reader.tally, passed[reader.point])
                except Exception as error:
                    failures[sae_id] = _cause(error)
            # frees its source before the next one is opened
            del passed

    for subject in subjects:
        order.append(subject.sae_id)
        try:
            sae = subject.load(context.device)
            source, point = place_of(context, sae)
            tally = start(subject.sae_id, sae)
        except Exception as error:
            failures[subject.sae_id] = _cause(error)
            continue
        size = sum(weight.nbytes for weight in sae.state_dict().values())
        size += extra_bytes(sae)
        if sources and held + size > context.memory_gib * 2**30 / 2:
            run_passes()
            held = 0
        held += size
        sources.setdefault(source, {})[subject.sae_id] = Reader(point, tally)
    run_passes()
    return {sae_id: results[sae_id] for sae_id in order if sae_id in results}, failures


def _model_of(source: Source | OtherSource) -> str:
    """Return what orders sources, so that each model is loaded once."""
    return source.model_name if isinstance(source, Source) else source.settings


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
    for done in range(contexts):
        try:
            rows.append(store.get_batch_tokens(1, raise_at_epoch_end=True))
        except StopIteration:
            logger.warning(
                "The held-out text ended after %d of %d contexts; all of them are used. Ask for "
                "fewer held-out tokens, or give a longer text.",
                done,
                contexts,
            )
            break
        if len(rows) == batch_size:
            yield torch.cat(rows)
            rows = []
    if rows:
        yield torch.cat(rows)
