"""Cross entropy and KL divergence with SAEs in place, by context."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.util import get_special_token_ids
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from eval_recipes.running.activation_source import Source, check_hook, source_of
from eval_recipes.running.artifacts import package_versions
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout_pass import heldout_store, token_batches
from eval_recipes.running.plan import digest, subject_hashes
from eval_recipes.statistics.interval import (
    Array,
    Interval,
    Statistic,
    bootstrap_together,
)
from eval_recipes.studies.framework.study_folder import read_figures, write_figures
from saereg_plugin.errors import InputError
from saereg_plugin.finetuning.frozen_model import CleanPass, FrozenModel
from saereg_plugin.finetuning.losses import Objective
from saereg_plugin.sources import corpora

BEHAVIOUR = "behaviour"
FILE = "figures/behaviour.json"
PART = 4
"""One of so many held-out tokens is read here, where the whole model runs once for each SAE."""


@dataclass(frozen=True)
class ContextLosses:
    """
    Sums over the tokens of each context, with one SAE in place; lists of one number a context.

    Attributes:
        ce: cross entropy of the next token.
        clean_ce: the same without an SAE.
        predictions: tokens whose next token is counted.
        kl: KL(clean || with the SAE).
        tokens: tokens that ``kl`` is summed over.
    """

    ce: list[float]
    clean_ce: list[float]
    predictions: list[float]
    kl: list[float]
    tokens: list[float]


def intervals(
    losses: ContextLosses, before: ContextLosses | None = None, *, seed: int = 0
) -> dict[str, Interval]:
    """
    Return ``ce_gap`` and ``kl`` in nats a token, with bootstrap intervals over contexts.

    Args:
        losses: of one SAE.
        before: of the SAE that it was fine-tuned from, on the same contexts. Then
            ``ce_gap_change`` and ``kl_change`` are also there: after minus before, resampled in
            pairs.
        seed: of the resamples.
    """
    statistics: dict[str, Statistic] = {
        "ce_gap": _mean(_gap(losses), losses.predictions),
        "kl": _mean(np.array(losses.kl), losses.tokens),
    }
    if before is not None:
        if before.clean_ce != losses.clean_ce:
            raise ValueError("The SAEs were not measured on the same contexts.")
        statistics |= {
            "ce_gap_change": _mean(_gap(losses) - _gap(before), losses.predictions),
            "kl_change": _mean(
                np.array(losses.kl) - np.array(before.kl), losses.tokens
            ),
        }
    return bootstrap_together(statistics, len(losses.ce), seed=seed)


def _gap(losses: ContextLosses) -> Array:
    return np.array(losses.ce) - np.array(losses.clean_ce)


def _mean(sums: Array, counts: list[float]) -> Statistic:
    """Return the mean over tokens for each weighting of the contexts."""
    n = np.array(counts)
    return lambda weights: (weights @ sums) / (weights @ n)


def measure(context: RunContext, out: Path) -> dict[str, ContextLosses]:
    """
    Return the losses of every subject by SAE id; the SAEs share the clean passes.

    The text is the first quarter of ``context.heldout_tokens``. The losses are read from
    ``out / FILE`` if it is whole and of the same SAEs, text and settings.

    Raises:
        InputError: if the SAEs are not of hooks of one model and one kind of context.
    """
    key = digest(
        {
            "saes": sorted(
                [*dataclasses.astuple(subject), hashed]
                for subject, hashed in subject_hashes(context).items()
            ),
            "corpus": corpora.identity(context.corpus),
            "heldout_tokens": context.heldout_tokens,
            "part": PART,
            "dtype": context.dtype,
            "device": context.device,
            "packages": package_versions(),
        }
    )
    kept = read_figures(out / FILE, key)
    if kept is not None:
        return {name: ContextLosses(**values) for name, values in kept.items()}
    found = _measure(context)
    write_figures(
        out / FILE,
        key,
        {name: dataclasses.asdict(each) for name, each in found.items()},
    )
    return found


@torch.no_grad()
def _measure(context: RunContext) -> dict[str, ContextLosses]:
    saes = {each.sae_id: each.load_flat(context.device) for each in context.subjects}
    points = {name: str(sae.cfg.metadata.hook_name) for name, sae in saes.items()}
    source = _common_source(context, saes)
    model = context.models.get(
        source.model_name,
        dtype=context.dtype,
        device=context.device,
        model_kwargs=source.model_kwargs,
    )
    check_hook(model, source.hook_name)
    frozen = FrozenModel(model, list(dict.fromkeys(points.values())), Objective("kl"))
    found = {name: ContextLosses([], [], [], [], []) for name in saes}
    for clean in _passes(context, source, frozen, next(iter(saes.values()))):
        clean_ce = _cross_entropy(clean, _whole(clean))
        for name, sae in tqdm(saes.items(), desc="SAEs in place", leave=False):
            _add(found[name], clean, clean_ce, frozen, points[name], sae)
    return found


def _common_source(context: RunContext, saes: Mapping[str, SAE[Any]]) -> Source:
    """Return the source of the SAEs, which may differ in the hook alone."""
    sources = [source_of(s, context_size=context.context_size) for s in saes.values()]
    first = sources[0]
    for other in sources:
        if other._replace(hook_name=first.hook_name) != first:
            raise InputError(
                f"The SAEs read {first.model_name!r} and {other.model_name!r} in contexts that differ; "
                "expected hooks of one model. Measure them apart."
            )
    return first


def _passes(
    context: RunContext, source: Source, frozen: FrozenModel, sae: SAE[Any]
) -> Iterator[CleanPass]:
    """Yield the clean pass of each batch of held-out contexts."""
    store = heldout_store(frozen.model, sae, source, corpus=context.corpus)
    tokenizer: Any = frozen.model.tokenizer
    special = torch.tensor(get_special_token_ids(tokenizer))
    contexts = math.ceil(context.heldout_tokens / PART / source.context_size)
    at_once = context.batch_size_prompts
    batches = token_batches(store, contexts=contexts, batch_size=at_once)
    total = math.ceil(contexts / at_once)
    for tokens in tqdm(batches, desc="Batches of held-out contexts", total=total):
        placed = tokens.to(context.device)
        keep = ~torch.isin(placed, special.to(placed.device))
        yield frozen.clean(placed, keep)


def _whole(clean: CleanPass) -> Tensor:
    """Return the clean log probabilities (contexts, tokens, vocabulary); 0 where none are kept."""
    assert clean.log_p is not None
    whole = clean.log_p.new_zeros(*clean.tokens.shape, clean.log_p.shape[-1])
    whole[clean.keep] = clean.log_p
    return whole


def _predicting(clean: CleanPass) -> Tensor:
    """Return which tokens predict a next one that counts, bool (contexts, tokens - 1)."""
    return clean.keep[:, :-1] & clean.keep[:, 1:]


def _cross_entropy(clean: CleanPass, log_q: Tensor) -> list[float]:
    """Return the summed cross entropy of the next token in each context."""
    following = clean.tokens[:, 1:, None]
    losses = -log_q[:, :-1].gather(-1, following).squeeze(-1)
    return torch.where(_predicting(clean), losses, 0).double().sum(1).tolist()


def _add(
    found: ContextLosses,
    clean: CleanPass,
    clean_ce: list[float],
    frozen: FrozenModel,
    point: str,
    sae: SAE[Any],
) -> None:
    """Add a batch of contexts with one SAE in place of the kept tokens."""
    rows = sae(clean.rows(point).to(sae.device, sae.dtype))
    places = torch.arange(len(rows), device=rows.device)
    changed = clean.with_rows(point, rows.to(clean.tokens.device), places)
    logits, _ = frozen.patched(clean, point, changed)
    log_q = F.log_softmax(logits.float(), dim=-1)
    assert clean.log_p is not None
    kl = (clean.log_p.exp() * (clean.log_p - log_q[clean.keep])).sum(-1).double()
    by_context = torch.zeros(clean.keep.shape, dtype=torch.float64, device=kl.device)
    by_context[clean.keep] = kl
    found.ce.extend(_cross_entropy(clean, log_q))
    found.clean_ce.extend(clean_ce)
    found.predictions.extend(_predicting(clean).double().sum(1).tolist())
    found.kl.extend(by_context.sum(1).tolist())
    found.tokens.extend(clean.keep.double().sum(1).tolist())
