"""The steered language model, and the norms of its residual vectors."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.util import get_special_token_ids
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
)

from eval_recipes.running.activation_source import Source, check_hook, source_of
from eval_recipes.running.context import ModelCache, RunContext
from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.generate.backend import Backend, HookedBackend, pad_rows
from eval_recipes.steering.generate.plain import PlainBackend, find_layers
from eval_recipes.steering.generate.prompts import encode_prompts
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select.latents import Latents
from saereg_plugin import machine
from saereg_plugin.errors import InputError
from saereg_plugin.sources import corpora, models
from saereg_plugin.sources.models import HookedTransformer

TEXT_TOKENS = 128
"""Most tokens of a text that are read."""
NORM_TEXTS = 64
"""Texts behind the median norm."""


@dataclass(frozen=True)
class LanguageModel:
    """A model that can be steered, and its tokenizer."""

    name: str
    kind: str
    """"plain" (transformers) or "hooked" (TransformerLens)."""
    backend: Backend
    tokenizer: Any


def language_model(
    context: RunContext, sae: SAE[Any], config: SteeringEvalConfig
) -> LanguageModel:
    """
    Load the model that an SAE was trained on.

    Raises:
        InputError: if the metadata name no model or hook, or the model lacks that hook.
    """
    source = _source(sae)
    kind = kind_of(sae, config)
    if kind == "plain" and source.model_kwargs != "{}":
        raise InputError(
            f"The SAE was trained with {source.model_kwargs}, which plain transformers do not "
            "know; expected backend 'hooked' or 'auto'."
        )
    if kind == "hooked":
        model: Any = context.models.get(
            source.model_name,
            dtype=context.dtype,
            device=context.device,
            model_kwargs=source.model_kwargs,
        )
        check_hook(model, source.hook_name)
        tokenizer = model.tokenizer
    else:
        path, local = _place(source.model_name)
        with warnings.catch_warnings():
            models.ignore_deprecation()
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=machine.torch_dtype(context.dtype), **local
            )
            tokenizer = AutoTokenizer.from_pretrained(path, **local)
        model.to(context.device).eval()
    return LanguageModel(source.model_name, kind, backend_for(model), tokenizer)


def kind_of(sae: SAE[Any], config: SteeringEvalConfig) -> str:
    """
    Return "plain" or "hooked".

    ``auto`` takes plain transformers where it computes what the SAE read: the metadata name no
    further argument of the loader, the hook begins or ends a layer, and the layers of the model
    are at a known place.

    Raises:
        InputError: if the metadata name no model or hook.
    """
    if config.backend != "auto":
        return config.backend
    source = _source(sae)
    ends = source.hook_name.endswith(("hook_resid_pre", "hook_resid_post"))
    if source.model_kwargs != "{}" or not ends:
        return "hooked"
    path, local = _place(source.model_name)
    with torch.device("meta"):
        empty: Any = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(path, **local), trust_remote_code=False
        )
    return "hooked" if find_layers(empty) is None else "plain"


def _source(sae: SAE[Any]) -> Source:
    # the context's length does not matter here
    return source_of(sae, context_size=sae.cfg.metadata.context_size or TEXT_TOKENS)


def _place(name: str) -> tuple[str, dict[str, Any]]:
    """Return where transformers find a model, and the loader's arguments for that place."""
    folder = models.ensure(name)
    path = str(folder or models.hub_name(name))
    return path, {"local_files_only": folder is not None, "trust_remote_code": False}


def backend_for(model: HookedTransformer | PreTrainedModel) -> Backend:
    """
    Wrap a language model.

    Raises:
        InputError: if it is neither a HookedTransformer nor a causal model of transformers
            with a known layout.
    """
    if isinstance(model, HookedTransformer):
        return HookedBackend(model)
    if isinstance(model, PreTrainedModel):
        return PlainBackend(model)
    raise InputError(
        f"Cannot steer a {type(model).__name__}; expected a HookedTransformer or a causal "
        "language model of transformers."
    )


class _Reached(Exception):
    """The hook was reached, so the model may stop."""


@torch.no_grad()
def residuals(
    model: LanguageModel,
    texts: Sequence[str],
    hook_name: str,
    *,
    prepend_bos: bool,
    batch_size: int = 16,
    most_tokens: int = TEXT_TOKENS,
) -> Iterator[tuple[Tensor, Tensor]]:
    """
    Yield residual vectors and the mask of tokens that count, batch by batch.

    Vectors [text, position, d_model] in float32 on the CPU; the mask [text, position] is false
    at padding and special tokens. Texts are cut at ``most_tokens`` tokens.
    """
    special = torch.tensor(get_special_token_ids(model.tokenizer))
    device = model.backend.device
    for start in range(0, len(texts), batch_size):
        prompts = encode_prompts(
            model.tokenizer, texts[start : start + batch_size], prepend_bos=prepend_bos
        )
        tokens, mask = pad_rows([prompt.tokens[:most_tokens] for prompt in prompts])
        kept: list[Tensor] = []

        def keep(residual: Tensor) -> Tensor:
            kept.append(residual.float().cpu())
            raise _Reached

        # the layers behind the hook, most of the work, are left out
        with model.backend.intervene(hook_name, keep), suppress(_Reached):
            model.backend.read(tokens.to(device), mask.to(device))
        yield kept[0], mask.bool() & ~torch.isin(tokens, special)


def corpus_texts(corpus: str, n: int) -> list[str]:
    """
    Return the first ``n`` held-out texts of a corpus that are not empty.

    Raises:
        InputError: if it has no texts.
    """
    texts: list[str] = []
    for row in corpora.load(corpus, "heldout", streaming=True):
        text = row.get("text")  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        if isinstance(text, str) and text.strip():
            texts.append(text)
        if len(texts) == n:
            break
    if not texts:
        raise InputError(
            f"Corpus {corpus!r} has no held-out texts; expected a column 'text'. Steering "
            "measures on them how long residual vectors are."
        )
    return texts


def median_norm(
    model: LanguageModel, hook_name: str, texts: Sequence[str], *, prepend_bos: bool
) -> Interval:
    """
    Return the median norm of residual vectors at a hook, special tokens left out.

    Interval: order statistics of the norms (binomial), as if tokens were independent; ``n`` is
    the number of tokens.
    """
    parts = [
        vectors.norm(dim=-1)[kept]
        for vectors, kept in residuals(model, texts, hook_name, prepend_bos=prepend_bos)
    ]
    norms = torch.cat(parts).sort().values
    n = len(norms)
    half = 1.96 * math.sqrt(n) / 2
    low, high = (min(n - 1, max(0, round(n / 2 + side * half))) for side in (-1, 1))
    value = float(norms.quantile(0.5)) if n < 1 << 23 else float(norms[n // 2])
    return Interval(value, float(norms[low]), float(norms[high]), n)


class Models:
    """Keeps the last language model, and the median norms that were measured with it."""

    def __init__(self, context: RunContext, config: SteeringEvalConfig) -> None:
        self.context = context
        self.config = config
        self._key: Any = None
        self._model: LanguageModel | None = None
        self._norms: dict[Any, Interval] = {}

    def get(self, sae: SAE[Any]) -> LanguageModel:
        """Return the model that an SAE was trained on."""
        metadata = sae.cfg.metadata
        kwargs = metadata.model_from_pretrained_kwargs
        key = (metadata.model_name, str(kwargs), metadata.hook_name)
        if self._model is None or key != self._key:
            # dropped first, so that two models are never in memory together
            if kind_of(sae, self.config) == "plain":
                # an evaluation before this one may have left a HookedTransformer
                self.context.models.release()
            self._drop()
            self._model = language_model(self.context, sae, self.config)
            self._key = key
        return self._model

    def for_explaining(self, sae: SAE[Any]) -> ModelCache:
        """
        Return where the explainer finds its model, a HookedTransformer.

        Where a plain model is steered, the explainer gets its own cache, which is released
        after use, and the plain model is dropped before. A model that the run's caller holds,
        or that is steered itself, is used as it is.
        """
        name = str(sae.cfg.metadata.model_name)
        shared = self.context.models
        held = shared.identity(name) != models.identity(name)
        if held or kind_of(sae, self.config) == "hooked":
            return shared
        self._drop()
        return ModelCache()

    def _drop(self) -> None:
        self._model = self._key = None
        # hooks make cycles of references
        gc.collect()

    def norm(self, sae: SAE[Any], latents: Latents) -> Interval:
        """Return the median residual norm at an SAE's hook."""
        model = self.get(sae)
        key = (self._key, latents.prepend_bos)
        if key not in self._norms:
            self._norms[key] = median_norm(
                model,
                latents.hook_name,
                corpus_texts(self.config.corpus, NORM_TEXTS),
                prepend_bos=latents.prepend_bos,
            )
        return self._norms[key]
