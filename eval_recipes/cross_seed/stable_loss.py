"""Loss of the language model with some latents alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.util import get_special_token_ids
from torch import Tensor
from torch.nn import functional

from eval_recipes.cross_seed.aggregate import Figures
from eval_recipes.results.subject import Subject
from eval_recipes.running.activation_source import Source, read_model, reads_other
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout_pass import (
    heldout_store,
    per_context,
    token_batches,
)
from eval_recipes.statistics.interval import (
    Array,
    Interval,
    Statistic,
    bootstrap_together,
)
from saereg_plugin.sources.models import LanguageModel

# Values of one batch of logits: 2^26 float32 are 256 MiB, held a few times.
_LOGIT_VALUES = 1 << 26

TENTHS = range(1, 11)
PARTS = ("reconstruction", "stable", "unstable", "matched", "bias")
"""Latents that are kept: all, the stable, the others, random ones that fire as often, none."""


@dataclass(frozen=True)
class Parts:
    """
    Latents of one SAE that are kept alone or left out.

    Attributes:
        stable: bool [d_sae].
        matched: random latents that fire as often as the stable ones, bool [d_sae].
        tenths: tenth by stability of each alive latent, int64 [d_sae]; 0 for others.
    """

    stable: Tensor
    matched: Tensor
    tenths: Tensor

    def masks(self) -> dict[str, Tensor]:
        """Return the latents to keep, bool [d_sae], by name of the variant."""
        every = torch.ones_like(self.stable)
        kept = (every, self.stable, ~self.stable, self.matched, ~every)
        without = {f"without_{n}": self.tenths != n for n in TENTHS}
        return dict(zip(PARTS, kept, strict=True)) | without


def loss_names() -> list[str]:
    """Return the names of the figures."""
    ce = ["ce_original", *(f"ce_{part}" for part in PARTS)]
    kl = [f"kl_{part}" for part in PARTS]
    return (
        ce + kl + [f"{name}_tenth_{n}" for n in TENTHS for name in ("loss", "firing")]
    )


@torch.no_grad()
def stable_losses(
    context: RunContext,
    subject: Subject,
    parts: Parts,
    counts: Tensor,
    *,
    contexts: int,
) -> Figures:
    """
    Measure the model's loss with parts of an SAE's reconstruction in place of its input.

    x_S = b + sum_{j in S} z_j d_j replaces the activations of tokens that are not special. The
    cross entropy is that of the next token at these tokens, KL is KL(original || replaced).

    Args:
        context: the run.
        subject: the SAE.
        parts: what to keep.
        counts: on how many rows each latent fired, int64 [d_sae].
        contexts: of held-out text.

    Returns:
        Figures with intervals over contexts; none for an SAE that reads no language model.
    """
    sae = subject.load_flat(context.device)
    if reads_other(context, sae.cfg.metadata):
        return {}
    source, model = read_model(context, sae)
    masks = {name: mask.to(sae.device) for name, mask in parts.masks().items()}
    special = torch.tensor(get_special_token_ids(model.tokenizer))  # pyright: ignore[reportArgumentType]
    store = heldout_store(model, sae, source, corpus=context.corpus)
    sums: dict[str, list[Array]] = {}
    size = _batch_size(model, source, context.batch_size_prompts)
    for tokens in token_batches(store, contexts=contexts, batch_size=size):
        read = ~torch.isin(tokens.cpu(), special)
        read &= _in_slice(source, tokens.shape[1])
        spliced = _Spliced(sae, model, source, tokens, read)
        for name, mask in {"original": None, **masks}.items():
            for kind, values in spliced.losses(mask).items():
                found = per_context(values, read[:, :-1])
                sums.setdefault(f"{kind}_{name}", []).append(found)
        count = read[:, :-1].double().sum(1).numpy()
        sums.setdefault("count", []).append(count)
    joined = {name: np.concatenate(found) for name, found in sums.items()}
    return _figures(joined, parts, counts, seed=context.seed)


def _batch_size(model: LanguageModel, source: Source, most: int) -> int:
    """Return how many contexts' logits fit into a batch."""
    vocabulary = int(model.cfg.d_vocab)
    return max(1, min(most, _LOGIT_VALUES // (vocabulary * source.context_size)))


def _in_slice(source: Source, length: int) -> Tensor:
    """Return the places in a context that the SAE reads, bool [length]."""
    places = torch.zeros(length, dtype=torch.bool)
    places[slice(*source.seqpos_slice)] = True
    return places


class _Spliced:
    """Losses of one batch with parts of a reconstruction at the hook."""

    def __init__(
        self,
        sae: SAE[Any],
        model: LanguageModel,
        source: Source,
        tokens: Tensor,
        read: Tensor,
    ) -> None:
        """Take tokens (contexts, tokens), and which of them the SAE reads."""
        self._sae, self._model, self._source = sae, model, source
        self._tokens, self._read = tokens, read
        self._original: Tensor | None = None

    def losses(self, kept: Tensor | None) -> dict[str, Tensor]:
        """
        Return losses of the next token, float64 (contexts, tokens - 1), on the CPU.

        ``kept``, bool [d_sae], are the latents kept; None replaces nothing, and must be first.
        """
        tokens = self._tokens
        if kept is None:
            logits = self._model(tokens, return_type="logits")
        else:
            hooks: list[Any] = [
                (self._source.hook_name, partial(self._replace, kept=kept))
            ]
            logits = self._model.run_with_hooks(
                tokens, return_type="logits", fwd_hooks=hooks
            )
        logs = functional.log_softmax(logits[:, :-1].float(), dim=-1)
        following = tokens[:, 1:].to(logs.device)
        ce = -logs.gather(-1, following[..., None])[..., 0]
        if self._original is None:
            self._original = logs
            return {"ce": ce.double().cpu()}
        kl = functional.kl_div(logs, self._original, log_target=True, reduction="none")
        return {"ce": ce.double().cpu(), "kl": kl.sum(-1).double().cpu()}

    def _replace(self, x: Tensor, hook: Any, *, kept: Tensor) -> Tensor:
        del hook
        head = self._source.hook_head_index
        if head is not None:
            replaced = x.clone()
            replaced[:, :, head] = self._reconstructed(x[:, :, head], kept)
            return replaced
        joined = x.flatten(2)
        return self._reconstructed(joined, kept).view(x.shape)

    def _reconstructed(self, x: Tensor, kept: Tensor) -> Tensor:
        """Return x (contexts, tokens, d_in), replaced at the tokens that are read."""
        read = self._read.to(x.device)
        own = x[read].to(device=self._sae.device, dtype=self._sae.dtype)
        found = self._sae.decode(self._sae.encode(own) * kept)
        replaced = x.clone()
        replaced[read] = found.to(device=x.device, dtype=x.dtype)
        return replaced


def _figures(
    sums: Mapping[str, Array], parts: Parts, counts: Tensor, *, seed: int
) -> Figures:
    """Turn sums over the tokens of each context into figures."""
    count, n = sums["count"], len(sums["count"])
    sizes = torch.bincount(parts.tenths, minlength=11).tolist()
    fired = torch.zeros(11).double().index_add(0, parts.tenths, counts.double())

    def mean(values: Array) -> Statistic:
        return lambda w: (w @ values) / (w @ count)

    statistics = {name: mean(sums[name]) for name in loss_names() if name in sums}
    for tenth in TENTHS:
        if sizes[tenth]:
            more = sums[f"ce_without_{tenth}"] - sums["ce_reconstruction"]
            statistics[f"loss_tenth_{tenth}"] = mean(more / sizes[tenth])
    figures: Figures = dict.fromkeys(loss_names())
    if not count.sum():
        return figures
    figures |= bootstrap_together(statistics, n, seed=seed)
    whole = float(fired.sum())
    for tenth in TENTHS:
        if sizes[tenth] and whole:
            share = float(fired[tenth]) / whole
            figures[f"firing_tenth_{tenth}"] = Interval(
                share, None, None, sizes[tenth], "counted, with nothing resampled"
            )
    return figures
