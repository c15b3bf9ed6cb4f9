"""Explained variance, L0 and alive latents of every SAE on held-out text, in one pass."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from sae_lens import SAE, ActivationsStore
from sae_lens.util import get_special_token_ids
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from eval_recipes.bootstrap import bootstrap
from eval_recipes.context import RunContext, Subject
from eval_recipes.variance import Array, ContextSums, concatenate, explained_variance
from saereg_plugin import corpora
from saereg_plugin.errors import InputError, suggest

logger = logging.getLogger(__name__)

# Values of one chunk of latent activations: 2^25 float32 are 128 MiB.
_CHUNK_VALUES = 1 << 25


@dataclass(frozen=True)
class HeldOut:
    """
    Figures of one SAE on held-out text; special tokens count only where named.

    Position 0 of a context holds over a third of the activations' variance and
    most SAEs are trained without it. Every interval is a 95 % bootstrap over
    contexts, and its ``_n`` is the number of contexts.

    Attributes:
        explained_variance: 1 - sum ||x - x_hat||^2 / sum ||x - mean x||^2.
        explained_variance_with_bos: the same, special tokens included.
        mse: squared error a token and dimension.
        l0: mean number of latents that are not zero.
        alive: latents that fired at least once.
        d_sae: all latents.
        n_tokens: tokens behind all but ``explained_variance_with_bos``.
        context_size: tokens in one context.
    """

    explained_variance: float
    explained_variance_ci_low: float
    explained_variance_ci_high: float
    explained_variance_n: int
    explained_variance_with_bos: float
    explained_variance_with_bos_ci_low: float
    explained_variance_with_bos_ci_high: float
    explained_variance_with_bos_n: int
    mse: float
    l0: float
    l0_ci_low: float
    l0_ci_high: float
    l0_n: int
    alive: int
    d_sae: int
    n_tokens: int
    context_size: int


class HeldOutError(RuntimeError):
    """An SAE has no held-out figures; the message names it and says why."""


class HeldOutTable(dict[str, HeldOut]):
    """
    Held-out figures by ``sae_id``; ``failures`` holds the cause where there are none.

    Looking up an SAE that failed raises ``HeldOutError`` with the cause.
    """

    def __init__(
        self, figures: Mapping[str, HeldOut], failures: Mapping[str, str]
    ) -> None:
        super().__init__(figures)
        self.failures: dict[str, str] = dict(failures)

    def __missing__(self, sae_id: str) -> HeldOut:
        cause = self.failures.get(sae_id)
        if cause is None:
            raise KeyError(sae_id)
        raise HeldOutError(f"SAE {sae_id!r} has no held-out figures: {cause}")


class Source(NamedTuple):
    """What decides the activations an SAE reads: SAEs that agree share one pass."""

    model_name: str
    hook_name: str
    hook_head_index: int | None
    context_size: int
    prepend_bos: bool
    seqpos_slice: tuple[int | None, ...]
    disable_concat_sequences: bool
    sequence_separator_token: int | str | None
    model_kwargs: str
    """Further arguments of the model's loader, as JSON."""


def source_of(sae: SAE[Any], *, context_size: int | None) -> Source:
    """
    Return where the activations of an SAE come from, as its metadata says.

    Raises:
        InputError: if the metadata does not say it; the message names the field.
    """
    metadata = sae.cfg.metadata
    size = context_size or metadata.context_size
    required = {
        "model_name": metadata.model_name,
        "hook_name": metadata.hook_name,
        "context_size": size,
        "prepend_bos": metadata.prepend_bos,
    }
    missing = [name for name, value in required.items() if value is None]
    if missing:
        raise InputError(
            f"The SAE's metadata lacks {', '.join(missing)}; expected what SAELens "
            "stores after training. Add it to the metadata in the SAE's cfg.json."
        )
    kwargs = dict(metadata.model_from_pretrained_kwargs or {})
    if kwargs.get("center_writing_weights") is False:
        # the default, which SAELens' runner writes down
        del kwargs["center_writing_weights"]
    return Source(
        model_name=metadata.model_name,
        hook_name=metadata.hook_name,
        hook_head_index=metadata.hook_head_index,
        context_size=size,
        prepend_bos=metadata.prepend_bos,
        seqpos_slice=tuple(metadata.seqpos_slice or (None,)),
        disable_concat_sequences=bool(metadata.disable_concat_sequences),
        sequence_separator_token=metadata.get("sequence_separator_token", "bos"),
        model_kwargs=json.dumps(kwargs, sort_keys=True),
    )


def check_hook(model: HookedTransformer, hook_name: str) -> None:
    """
    Refuse a hook the model does not have.

    Raises:
        InputError: names the hook and the nearest one.
    """
    if hook_name not in model.hook_dict:
        raise InputError(
            f"Hook {hook_name!r} is not in the model; expected a TransformerLens "
            f"hook name. {suggest(hook_name, model.hook_dict)}"
        )


class Tally(Protocol):
    """What runs along the held-out text for one SAE."""

    sae: SAE[Any]

    def update(self, activations: Tensor, keep: Tensor) -> None:
        """Add one batch: activations (contexts, tokens, d_in), keep (contexts, tokens)."""


class Passed(NamedTuple):
    """What one pass over the text says of the activations themselves."""

    kept: ContextSums
    """Of the tokens that are not special."""
    special: ContextSums
    context_size: int


T = TypeVar("T", bound=Tally)
R = TypeVar("R")


class _Tally:
    """Running figures of one SAE; lists hold one entry a batch of contexts."""

    def __init__(self, sae: SAE[Any]) -> None:
        if sae.hook_z_reshaping_mode:
            # The activation store has already joined the heads.
            sae.turn_off_forward_pass_hook_z_reshaping()
        self.sae = sae
        self.fired = torch.zeros(int(sae.cfg.d_sae), dtype=torch.bool)
        self.residual: list[Array] = []
        self.residual_special: list[Array] = []
        self.nonzero: list[Array] = []

    def update(self, activations: Tensor, keep: Tensor) -> None:
        """
        Add one batch.

        Args:
            activations: shape (contexts, tokens, d_in).
            keep: True where the token is not special, shape (contexts, tokens).

        Raises:
            ValueError: if a reconstruction is not finite.
        """
        flat = activations.flatten(0, 1)
        kept = keep.flatten()
        rows = max(1, _CHUNK_VALUES // len(self.fired))
        residuals: list[Tensor] = []
        counts: list[Tensor] = []
        for x, is_kept in zip(flat.split(rows), kept.split(rows), strict=True):
            latents = self.sae.encode(x.to(self.sae.dtype))
            error = x.double() - self.sae.decode(latents).to(x.device).double()
            active = (latents != 0).cpu()
            residuals.append(error.square().sum(-1).cpu())
            counts.append(active.sum(-1))
            self.fired |= active[is_kept].any(0)
        residual = torch.cat(residuals).view_as(keep)
        if not bool(residual.isfinite().all()):
            raise ValueError("its reconstruction holds NaN or infinity")
        nonzero = torch.cat(counts).view_as(keep)
        self.residual.append(per_context(residual, keep))
        self.residual_special.append(per_context(residual, ~keep))
        self.nonzero.append(per_context(nonzero, keep))

    def figures(self, passed: Passed, *, seed: int) -> HeldOut:
        """Turn the sums into figures, given those of the activations themselves."""
        kept, special, context_size = passed
        residual = np.concatenate(self.residual)
        residual_all = residual + np.concatenate(self.residual_special)
        nonzero = np.concatenate(self.nonzero)
        everything = kept + special
        n = len(residual)
        tokens = float(kept.count.sum())
        variance = bootstrap(
            lambda w: explained_variance(kept, residual, w), n, seed=seed
        )
        with_bos = bootstrap(
            lambda w: explained_variance(everything, residual_all, w), n, seed=seed
        )
        l0 = bootstrap(lambda w: (w @ nonzero) / (w @ kept.count), n, seed=seed)
        return HeldOut(
            explained_variance=variance.value,
            explained_variance_ci_low=variance.ends[0],
            explained_variance_ci_high=variance.ends[1],
            explained_variance_n=n,
            explained_variance_with_bos=with_bos.value,
            explained_variance_with_bos_ci_low=with_bos.ends[0],
            explained_variance_with_bos_ci_high=with_bos.ends[1],
            explained_variance_with_bos_n=n,
            mse=float(residual.sum()) / (tokens * kept.total.shape[1]),
            l0=l0.value,
            l0_ci_low=l0.ends[0],
            l0_ci_high=l0.ends[1],
            l0_n=n,
            alive=int(self.fired.sum()),
            d_sae=len(self.fired),
            n_tokens=int(tokens),
            context_size=context_size,
        )


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


def _token_batches(
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


def _store(
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
    store = _store(
        model, next(iter(tallies.values())).sae, source, corpus=context.corpus
    )
    special = torch.tensor(get_special_token_ids(model.tokenizer))  # pyright: ignore[reportArgumentType]
    contexts = math.ceil(context.heldout_tokens / source.context_size)
    batches = _token_batches(
        store, contexts=contexts, batch_size=context.batch_size_prompts
    )

    kept: list[ContextSums] = []
    left_out: list[ContextSums] = []
    n_batches = math.ceil(contexts / context.batch_size_prompts)
    for tokens in tqdm(batches, desc="held-out text", total=n_batches):
        activations = store.get_activations(tokens)
        seen = tokens[:, slice(*source.seqpos_slice)].cpu()
        keep = ~torch.isin(seen, special)
        kept.append(_context_sums(activations, keep))
        left_out.append(_context_sums(activations, ~keep))
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
    return Passed(concatenate(kept), concatenate(left_out), source.context_size)


def _check_unique_ids(subjects: list[Subject]) -> None:
    owners: dict[str, Subject] = {}
    for subject in subjects:
        other = owners.setdefault(subject.sae_id, subject)
        if other is not subject:
            raise InputError(
                f"SAE id {subject.sae_id!r} stands in release {other.release!r} and "
                f"in release {subject.release!r}; expected ids that differ within "
                "one run. Evaluate the releases in separate runs."
            )


def tally_heldout(
    context: RunContext,
    subjects: Iterable[Subject],
    start: Callable[[str, SAE[Any]], T],
    finish: Callable[[T, Passed], R],
) -> tuple[dict[str, R], dict[str, str]]:
    """
    Run something of one's own along the held-out text; one pass for SAEs on one hook.

    SAEs are in memory until their pass is over; where they would take more than half of the
    bound on memory together, they go along the text in several passes.

    Args:
        context: text, sizes and model.
        subjects: the SAEs, whose ids differ.
        start: makes what runs along the text from ``sae_id`` and SAE.
        finish: turns it into a result after the last batch.

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
        if sources and held + size > context.memory_gib * 2**30 / 2:
            run_passes()
            held = 0
        held += size
        sources.setdefault(source, {})[subject.sae_id] = tally
    run_passes()
    return {sae_id: results[sae_id] for sae_id in order if sae_id in results}, failures


def measure_heldout(context: RunContext) -> HeldOutTable:
    """
    Measure every subject on the held-out text; one pass for SAEs on one hook.

    Memory: one batch of activations, one chunk of latents, the SAEs that share
    a pass, and ``d_in`` float64 a context. An SAE that fails is recorded in the
    table's ``failures``; the others go on.

    Raises:
        InputError: if two subjects have one id.
    """
    _check_unique_ids(context.subjects)
    figures, failures = tally_heldout(
        context,
        context.subjects,
        lambda _, sae: _Tally(sae),
        lambda tally, passed: tally.figures(passed, seed=context.seed),
    )
    return HeldOutTable(figures, failures)
