"""A judge without any server: does the steered text lead the model to expect the concept?"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.steering.generate.backend import Backend
from eval_recipes.steering.generate.decoding import Continuation
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.judges.protocol import Pair, Threshold, ThresholdJudge

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_WORD = re.compile(r"[^\W\d_]{3,}")

# Words of explanations that name no concept.
_FILLERS = (
    "about activate activates after all also and any are associated back because been before "
    "being between both but can concept concepts could describing does during each especially "
    "etc feature features fires for from had has have her his how instances into its latent "
    "like mentions more most near neuron not often one other out over particularly phrase "
    "phrases references related relating sentence sentences she should some such text than "
    "that the their them then there these they this those token tokens use used various was "
    "well were what when where which while who will with word words would you your"
)
_EMPTY = frozenset(_FILLERS.split())


class LogProbabilityJudge(ThresholdJudge):
    """
    Scores a pair by how much likelier the steered text makes the concept's tokens.

    The score is the mean over the text's positions of log sum_{c in C} p(c is next) under the
    unsteered model, of the steered text less of the original one, in nats; C are the concept's
    tokens. It asks for the concept's own words, not for its meaning.

    Args:
        backend: the language model.
        tokenizer: its tokenizer.
        threshold: which score is a success; None until ``calibrate`` found one.
    """

    name = "log_probability"

    def __init__(
        self, backend: Backend, tokenizer: Any, *, threshold: Threshold | None = None
    ) -> None:
        super().__init__(threshold)
        self.backend = backend
        self.tokenizer = tokenizer
        self.seen: dict[Written, TextScore] = {}
        """What it has scored: perplexities need no second pass."""

    def settings(self) -> dict[str, Any]:
        """Return what decides the scores."""
        return {"dtype": str(self.backend.dtype).removeprefix("torch.")}

    def scores(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Return each pair's score; None if the concept has no words or a text no tokens."""
        concepts = {
            concept: concept_tokens(concept, self.tokenizer)
            for concept in dict.fromkeys(pair.concept for pair in pairs)
        }
        wanted: dict[Written, dict[Concept, None]] = {}
        for pair in pairs:
            if not self.why_not(pair):
                for written in _both(pair):
                    wanted.setdefault(written, {})[concepts[pair.concept]] = None
        texts = list(wanted)
        scored = score_texts(
            self.backend,
            texts,
            concepts={text: list(wanted[text]) for text in texts},
        )
        found = dict(zip(texts, scored, strict=True))
        self.seen |= found
        scores: list[float | None] = []
        for pair in pairs:
            if self.why_not(pair):
                scores.append(None)
                continue
            original, steered = (
                found[written].concepts[concepts[pair.concept]]
                for written in _both(pair)
            )
            scores.append(steered - original)
        return scores

    def why_not(self, pair: Pair) -> str:
        """Return why a pair has no score; empty if it has one."""
        if not concept_words(pair.concept):
            return "the concept names no word"
        if not (pair.original.tokens and pair.steered.tokens):
            return "a text has no tokens"
        return ""


def concept_words(concept: str) -> list[str]:
    """
    Return the words that express a concept: quoted ones if there are any, else all but fillers.

    >>> concept_words('the tokens "policy", "law"; near "public"')
    ['policy', 'law', 'public']
    >>> concept_words("This neuron fires on words about the sea.")
    ['sea']
    """
    quoted = [_unquoted(match) for match in _QUOTED.findall(concept)]
    words = [word.strip() for word in quoted if word.strip()]
    if not words:
        words = [word for word in _WORD.findall(concept) if word.lower() not in _EMPTY]
    return list(dict.fromkeys(words))


def concept_tokens(concept: str, tokenizer: Any) -> Concept:
    """
    Return the tokens that express a concept, sorted.

    Of each word those of its forms (as it is, lower-case, capitalised; with and without a
    space in front) that are one token; if none is, the first token of the word after a space.
    """
    found: set[int] = set()
    for word in concept_words(concept):
        forms = dict.fromkeys(
            space + form
            for space in (" ", "")
            for form in (word, word.lower(), word.capitalize())
        )
        encoded = [
            tokenizer(form, add_special_tokens=False)["input_ids"] for form in forms
        ]
        single = [ids[0] for ids in encoded if len(ids) == 1]
        found.update(single or encoded[0][:1])
    return tuple(sorted(found))


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        # Quoted by a person or a language model, not as JSON.
        return text[1:-1]


def _both(pair: Pair) -> tuple[Written, Written]:
    return _written(pair, pair.original), _written(pair, pair.steered)


def _written(pair: Pair, continuation: Continuation) -> Written:
    return Written(pair.prompt, continuation.tokens)


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
