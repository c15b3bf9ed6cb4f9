"""Perplexity and fluency of texts under the unsteered model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.steering.generate.backend import Backend
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.judges.protocol import Pair

Concept = tuple[int, ...]
"""Tokens that express a concept."""


@dataclass(frozen=True)
class Written:
    """A prompt and the new tokens after it."""

    prompt: Prompt
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class TextScore:
    """
    One text under the unsteered model.

    Attributes:
        nll: mean negative log-probability of the new tokens, each given all before it, in
            nats; NaN for a text without tokens.
        n: how many tokens.
        concepts: for each concept asked for, the mean over the positions of the new tokens of
            log sum_{c in concept} p(c is next | text up to there), in nats.
    """

    nll: float
    n: int
    concepts: dict[Concept, float] = field(default_factory=dict[Concept, float])

    @property
    def perplexity(self) -> float:
        """exp(nll)."""
        return math.exp(self.nll)


@torch.no_grad()
def score_texts(
    backend: Backend,
    texts: Sequence[Written],
    *,
    concepts: Mapping[Written, Sequence[Concept]] | None = None,
    batch_size: int = 16,
) -> list[TextScore]:
    """
    Score texts, many at a time; equal texts once.

    Args:
        backend: the language model, unsteered.
        texts: what is scored.
        concepts: which concepts are looked for in a text; none by default.
        batch_size: texts at a time; their logits are kept together.
    """
    wanted = concepts or {}
    # Neighbours of equal length need no padding.
    order = sorted(dict.fromkeys(texts), key=_length)
    scores: dict[Written, TextScore] = {}
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="scores", leave=False, disable=None):
        batch = order[start : start + batch_size]
        for text, log_p in zip(batch, _log_probabilities(backend, batch), strict=True):
            scores[text] = _score(text, log_p, wanted.get(text, ()))
    return [scores[text] for text in texts]


def _length(text: Written) -> int:
    return len(text.prompt.tokens) + len(text.tokens)


def _log_probabilities(backend: Backend, batch: Sequence[Written]) -> Iterator[Tensor]:
    """
    Yield log-probabilities [new tokens + 1, vocabulary] of each text.

    Row i is what the model expects after the prompt and i new tokens.
    """
    width = max(_length(text) for text in batch)
    tokens = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, text in enumerate(batch):
        ids = [*text.prompt.tokens, *text.tokens]
        tokens[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
    logits = backend.logits(tokens.to(backend.device), mask.to(backend.device))
    for row, text in enumerate(batch):
        seen = logits[row, len(text.prompt.tokens) - 1 : _length(text)]
        yield seen.float().log_softmax(-1)


def _score(text: Written, log_p: Tensor, concepts: Sequence[Concept]) -> TextScore:
    n = len(text.tokens)
    if not n:
        return TextScore(math.nan, 0, dict.fromkeys(concepts, math.nan))
    chosen = torch.tensor(text.tokens, device=log_p.device)
    nll = -log_p[:-1].gather(1, chosen[:, None]).double().mean()
    # What is expected right after the prompt says nothing about the text.
    after = log_p[1:]
    found = {
        concept: float(
            after[:, torch.tensor(concept, device=log_p.device)]
            .double()
            .logsumexp(1)
            .mean()
        )
        for concept in concepts
    }
    return TextScore(float(nll), n, found)


@dataclass(frozen=True)
class Fluency:
    """
    Perplexities under the unsteered model; NaN for a text without tokens.

    Attributes:
        original: of the unsteered text.
        steered: of the steered one.
    """

    original: float
    steered: float

    @property
    def loss(self) -> float:
        """ln(steered / original): nats a token that steering costs; negative for a gain."""
        return math.log(self.steered / self.original)


def fluency(
    backend: Backend,
    pairs: Sequence[Pair],
    *,
    seen: Mapping[Written, TextScore] | None = None,
    batch_size: int = 16,
) -> list[Fluency]:
    """
    Return the fluency of each pair's texts, given their prompt; equal texts are read once.

    Args:
        backend: the language model, unsteered.
        pairs: the pairs.
        seen: texts that are scored already, such as by the log-probability judge.
        batch_size: texts at a time.
    """
    known = dict(seen or {})
    texts = [
        Written(pair.prompt, text.tokens)
        for pair in pairs
        for text in (pair.original, pair.steered)
    ]
    new = [text for text in dict.fromkeys(texts) if text not in known]
    known |= zip(new, score_texts(backend, new, batch_size=batch_size), strict=True)
    scores = [known[text] for text in texts]
    return [
        Fluency(original.perplexity, steered.perplexity)
        for original, steered in zip(scores[::2], scores[1::2], strict=True)
    ]
