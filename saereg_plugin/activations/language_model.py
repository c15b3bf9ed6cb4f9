"""Activations of a TransformerLens language model on a text."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from sae_lens import ActivationsStore
from sae_lens.pretokenize_runner import get_special_token_from_cfg
from sae_lens.util import get_special_token_ids

from saereg_plugin.activations.passes import Pass
from saereg_plugin.activations.source import ActivationSource
from saereg_plugin.errors import InputError
from saereg_plugin.regularizers.token_order import crosses_documents
from saereg_plugin.sources import corpora, models
from saereg_plugin.sources.models import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """How a text becomes contexts of a language model."""

    context_size: int
    """Tokens in one context."""
    per_pass: int
    """Contexts in one pass of the model."""
    prepend_bos: bool = True
    exclude_special_tokens: bool = True
    """Leave out special tokens."""
    disable_concat_sequences: bool = False
    """Take each context from one document."""


class LanguageModelSource(ActivationSource):
    """
    Hooks of a language model, read along a text without end: it begins anew at its end.

    Args:
        model: the language model.
        model_name: its name, for the metadata.
        corpus: name, folder or hub path of the text (``saereg_plugin.sources.corpora``).
        points: d_in by hook.
        contexts: how the text becomes contexts.
        device: of the activations.
        dtype: data type of the model, for the identity.
        batch_size: rows of a training batch, which SAELens' store wants to know.
        text_tokens: training tokens of the text after which it begins anew, at the end of a pass;
            0 reads to its end.
        count_pairs: mark rows whose pair with the row before lies in two documents.
    """

    kind: ClassVar[str] = "language_model"
    ordered = True

    def __init__(
        self,
        model: LanguageModel,
        *,
        model_name: str,
        corpus: str,
        points: Mapping[str, int],
        contexts: Contexts,
        device: str,
        dtype: str = "float32",
        batch_size: int = 1,
        total_tokens: int = 0,
        text_tokens: int = 0,
        count_pairs: bool = False,
    ) -> None:
        self.points = dict(points)
        self.device = torch.device(device)
        self._names = (model_name, corpus, dtype)
        self._contexts = contexts
        self._store = _open_store(
            model,
            corpus,
            points,
            contexts,
            device=device,
            batch_size=batch_size,
            total_tokens=total_tokens,
        )
        special = contexts.exclude_special_tokens
        self.rows_per_input = None if special else contexts.context_size
        self.rows_per_pass = contexts.per_pass * contexts.context_size
        self._special = _special_tokens(self._store) if special else None
        self._separator = _separator(self._store) if count_pairs else None
        self._is_read = False
        self._text_tokens, self._tokens_read = text_tokens, 0

    def feed(self) -> LanguageModelFeed:
        """
        Return passes from the text's beginning; a source has one feed, as its text is read once.

        Raises:
            InputError: at the second call.
        """
        if self._is_read:
            raise InputError(
                "The source's text is being read already; expected one stream of a language model's "
                "source. Open the source again for another."
            )
        self._is_read = True
        return LanguageModelFeed(self)

    def tokens(self) -> torch.Tensor:
        """Return the tokens of the next pass, (contexts, tokens)."""
        if not self._text_tokens:
            return self._store.get_batch_tokens()
        if self._tokens_read >= self._text_tokens:
            # the store does the same at the end of the text
            self._store.iterable_sequences = self._store._iterate_tokenized_sequences()
            self._tokens_read = 0
        tokens = self._store.get_batch_tokens()
        self._tokens_read += int(self.keep(tokens).sum())
        return tokens

    def keep(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return which tokens the SAEs are trained on, bool (contexts, tokens)."""
        if self._special is None:
            return torch.ones_like(tokens, dtype=torch.bool)
        return ~torch.isin(tokens, self._special)

    def read(self, tokens: torch.Tensor, first: int) -> Pass:
        """Return the activations of tokens (contexts, tokens); ``first`` numbers the contexts."""
        found = self._store.get_multi_hook_activations(tokens)
        shape = (*tokens.shape, -1)
        activations = {point: found[point].reshape(shape) for point in self.points}
        crossing = None
        if self._separator is not None:
            crossing = crosses_documents(tokens, self._separator)
        inputs = torch.arange(first, first + len(tokens))
        return Pass(activations, self.keep(tokens).to(self.device), inputs, crossing)

    def identity(self) -> dict[str, Any]:
        """Return plain JSON of what decides the activations: model, text, contexts."""
        model_name, corpus, dtype = self._names
        # caches of earlier versions do not have it, and can be read
        repeated = {"text_tokens": self._text_tokens} if self._text_tokens else {}
        return {
            **repeated,
            "kind": self.kind,
            "model": models.identity(model_name),
            "dtype": dtype,
            "corpus": corpora.identity(corpus),
            "points": list(self.points),
            **vars(self._contexts),
        }

    def metadata(self, point: str) -> dict[str, Any]:
        """Return the fields that SAELens' runner gives an SAE's metadata."""
        model_name, corpus, _ = self._names
        contexts = self._contexts
        return {
            "dataset_path": corpus,
            "hook_name": point,
            "model_name": model_name,
            "model_class_name": "HookedTransformer",
            "hook_head_index": None,
            "context_size": contexts.context_size,
            "seqpos_slice": (None,),
            "model_from_pretrained_kwargs": {},
            "prepend_bos": contexts.prepend_bos,
            "exclude_special_tokens": contexts.exclude_special_tokens,
            "sequence_separator_token": "bos",
            "disable_concat_sequences": contexts.disable_concat_sequences,
        }


class LanguageModelFeed:
    """Passes along a text; its store reads one way only."""

    def __init__(self, source: LanguageModelSource) -> None:
        self._source = source
        self._position = 0

    def take(self) -> Pass:
        """Return the next pass."""
        tokens = self._source.tokens()
        found = self._source.read(tokens, self._position)
        self._position += len(tokens)
        return found

    def skip_to(self, position: int) -> None:
        """Go on after the first ``position`` contexts, without computing them."""
        while self._position < position:
            self._position += len(self._source.tokens())


def _open_store(
    model: LanguageModel,
    corpus: str,
    points: Mapping[str, int],
    contexts: Contexts,
    *,
    device: str,
    batch_size: int,
    total_tokens: int,
) -> ActivationsStore:
    """Open SAELens' store of tokens and activations."""
    dataset = corpora.ensure(corpus, "train")
    with warnings.catch_warnings():
        # text is tokenised on the fly on purpose
        warnings.filterwarnings("ignore", message="Dataset is not tokenized")
        return ActivationsStore.from_config_multi_hook(
            model=model,
            dataset=dataset,
            hook_names=list(points),
            hook_d_ins=dict(points),
            streaming=not Path(dataset).exists(),
            context_size=contexts.context_size,
            total_training_tokens=total_tokens,
            store_batch_size_prompts=contexts.per_pass,
            train_batch_size_tokens=batch_size,
            prepend_bos=contexts.prepend_bos,
            disable_concat_sequences=contexts.disable_concat_sequences,
            device=device,
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
