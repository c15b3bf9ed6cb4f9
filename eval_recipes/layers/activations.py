"""Shares of a text's tokens on which latents fire, and mean activations."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE, GatedSAE, JumpReLUSAE, StandardSAE, TopKSAE
from sae_lens.util import extract_layer_from_tlens_hook_name, get_special_token_ids
from torch import Tensor

from eval_recipes.running.activation_source import Source, check_hook, source_of
from eval_recipes.running.context import RunContext
from eval_recipes.statistics.interval import Array
from eval_recipes.steering.generate.backend import pad_rows
from eval_recipes.steering.generate.language_model import TEXT_TOKENS
from eval_recipes.steering.generate.prompts import encode_prompts
from saereg_plugin.errors import InputError
from saereg_plugin.sources.models import LanguageModel

KINDS = (TopKSAE, JumpReLUSAE, StandardSAE, GatedSAE)
"""Architectures that have a random control."""
_MOST_VALUES = 1 << 26
_SAMPLE_TEXTS = 16
"""Texts of each set by which the random control of an SAE gets its threshold."""


@dataclass
class Read:
    """
    What an SAE and its random control read in the texts.

    Attributes:
        pooled: mean activation over each text's tokens, [texts, d_in].
        shares: share of each text's tokens on which each latent fires, [texts, d_sae].
        random: the same of the control; None if the architecture has none.
    """

    pooled: Array
    shares: Array
    random: Array | None

    @property
    def l0(self) -> float:
        """Latents that fire on a token, mean over texts."""
        return float(self.shares.sum(1).mean())

    @property
    def random_l0(self) -> float | None:
        """The same of the control."""
        return None if self.random is None else float(self.random.sum(1).mean())


def place_of_text(sae: SAE[Any]) -> Source:
    """
    Return the model and hook that an SAE reads.

    Raises:
        InputError: if it reads no language model, or a single head.
    """
    if sae.cfg.metadata.get("activation_source"):
        raise InputError(
            "The SAE reads no language model; expected SAEs of a language model. Use "
            "`saereg-bench select` for a vision or audio model."
        )
    source = source_of(sae, context_size=sae.cfg.metadata.context_size or TEXT_TOKENS)
    if source.hook_head_index is not None:
        raise InputError(
            f"The SAE reads head {source.hook_head_index} of {source.hook_name!r}; expected SAEs "
            "of whole hooks. Leave this SAE out."
        )
    return source


@torch.no_grad()
def read_texts(
    context: RunContext,
    saes: Mapping[str, SAE[Any]],
    first: Sequence[str],
    second: Sequence[str],
    *,
    seed: int,
) -> dict[str, Read]:
    """
    Read two sets of texts by SAEs of one model; rows of the second set follow the first's.

    The SAEs of all hooks share one pass of the language model. Special tokens are left out;
    texts are cut at 128 tokens. A text of special tokens alone has zeros.

    Raises:
        InputError: if a hook does not exist.
    """
    sources = {name: place_of_text(sae) for name, sae in saes.items()}
    model = _model(context, list(sources.values()))
    hooks = sorted({source.hook_name for source in sources.values()})
    bos = next(iter(sources.values())).prepend_bos
    sample = _sample(
        model, hooks, [*first[:_SAMPLE_TEXTS], *second[:_SAMPLE_TEXTS]], bos
    )
    random = {
        name: random_decoder(sae, sample[sources[name].hook_name], seed=seed)
        for name, sae in saes.items()
    }
    pooled: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
    shares: dict[str, list[Tensor]] = {name: [] for name in saes}
    others: dict[str, list[Tensor]] = {name: [] for name in saes}
    for found, owner, n_texts in _passes(model, hooks, [*first, *second], bos):
        for hook, rows in found.items():
            pooled[hook].append(_means(rows.double().cpu(), owner, n_texts))
        for name, sae in saes.items():
            rows = found[sources[name].hook_name]
            shares[name].append(_means(_fired(sae, rows), owner, n_texts))
            control = random[name]
            if control is not None:
                others[name].append(_means(_fired(control, rows), owner, n_texts))
    means = {hook: torch.cat(parts).numpy() for hook, parts in pooled.items()}
    return {
        name: Read(
            means[sources[name].hook_name],
            torch.cat(parts).numpy(),
            torch.cat(others[name]).numpy() if others[name] else None,
        )
        for name, parts in shares.items()
    }


def _model(context: RunContext, sources: Sequence[Source]) -> LanguageModel:
    """Return the language model of the SAEs, its hooks checked."""
    one = sources[0]
    model = context.models.get(
        one.model_name,
        dtype=context.dtype,
        device=context.device,
        model_kwargs=one.model_kwargs,
    )
    for source in sources:
        check_hook(model, source.hook_name)
    return model


def _passes(
    model: LanguageModel, hooks: Sequence[str], texts: Sequence[str], bos: bool
) -> Iterator[tuple[dict[str, Tensor], Tensor, int]]:
    """Yield, by batch: rows [tokens, d_in] by hook, the text of each row, number of texts."""
    special = torch.tensor(get_special_token_ids(model.tokenizer))  # pyright: ignore[reportArgumentType]
    layers = [extract_layer_from_tlens_hook_name(hook) for hook in hooks]
    known = [layer for layer in layers if layer is not None]
    # what lies behind the last hook is left out
    stop = max(known) + 1 if len(known) == len(layers) else None
    batch = 16
    for start in range(0, len(texts), batch):
        prompts = encode_prompts(
            model.tokenizer, texts[start : start + batch], prepend_bos=bos
        )
        tokens, mask = pad_rows([prompt.tokens[:TEXT_TOKENS] for prompt in prompts])
        kept = mask.bool() & ~torch.isin(tokens, special)
        _, cache = model.run_with_cache(
            tokens.to(model.cfg.device),
            names_filter=list(hooks),
            stop_at_layer=stop,
            return_type=None,
        )
        owner = kept.nonzero()[:, 0]
        found = {hook: cache[hook].flatten(2)[kept] for hook in hooks}
        yield {hook: rows.float() for hook, rows in found.items()}, owner, len(prompts)


def _sample(
    model: LanguageModel, hooks: Sequence[str], texts: Sequence[str], bos: bool
) -> dict[str, Tensor]:
    """Return the rows of some texts by hook."""
    found = [rows for rows, _, _ in _passes(model, hooks, texts, bos)]
    return {hook: torch.cat([rows[hook] for rows in found]) for hook in hooks}


def _fired(sae: SAE[Any], rows: Tensor) -> Tensor:
    codes = sae.encode(rows.to(sae.device, sae.dtype)).cpu()
    codes = codes.to_dense() if codes.layout != torch.strided else codes
    return (codes != 0).float()


def _means(rows: Tensor, owner: Tensor, n_texts: int) -> Tensor:
    """Return the mean over the rows of each text, zeros for a text without rows."""
    total = torch.zeros(n_texts, rows.shape[1], dtype=rows.dtype)
    total.index_add_(0, owner, rows)
    count = torch.bincount(owner, minlength=n_texts).clamp(min=1)
    # sums of float32 are whole numbers of tokens, or means of float64
    return total.double() / count[:, None]


@torch.no_grad()
def random_decoder(sae: SAE[Any], sample: Tensor, *, seed: int) -> SAE[Any] | None:
    """
    Return a copy of an SAE with random unit decoder rows and the encoder tied to them.

    The decoder's bias stays. A TopK SAE keeps its k. Others get one threshold for all latents
    at which the copy fires as often as the SAE on ``sample``, activations [rows, d_in].

    Returns:
        None for an architecture that is not in ``KINDS``.
    """
    if not isinstance(sae, KINDS):
        return None
    made: Any = copy.deepcopy(sae)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(made.W_dec.shape, generator=generator)
    rows = torch.nn.functional.normalize(rows, dim=-1).to(made.W_dec)
    made.W_dec.copy_(rows)
    made.W_enc.copy_(rows.T)
    if isinstance(made, GatedSAE):
        made.r_mag.zero_()
        made.b_mag.zero_()
        made.b_gate.fill_(-_threshold(sae, made, sample))
        return made
    made.b_enc.zero_()
    if isinstance(made, JumpReLUSAE):
        made.threshold.fill_(_threshold(sae, made, sample))
    if isinstance(made, StandardSAE):
        made.b_enc.fill_(-_threshold(sae, made, sample))
    return made


def _threshold(sae: SAE[Any], made: Any, sample: Tensor) -> float:
    """Return the threshold on the copy's encoder at which both fire equally often."""
    rows = sample[: max(1, _MOST_VALUES // sae.cfg.d_sae)].to(sae.device)
    fired = int((sae.encode(rows) != 0).sum())
    values = (made.process_sae_in(rows) @ made.W_enc).flatten()
    # the first value that must not fire; a latent never fires below 0
    rank = values.numel() - fired
    found = float(values.kthvalue(rank).values) if rank else 0.0
    return max(0.0, found)
