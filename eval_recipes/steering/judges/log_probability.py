"""The log-probability judge, and perplexity and fluency of texts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.steering.generate.backend import Backend, pad_rows
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.judges.protocol import Pair, Threshold, ThresholdJudge

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_WORD = re.compile(r"[^\W\d_]{3,}")

_FILLERS = (
    "about activate activates after all also and any are associated back because been before "
    "being between both but can concept concepts could describing does during each especially "
    "etc feature features fires for from had has have her his how instances into its latent "
    "like mentions more most near neuron not often one other out over particularly phrase "
    "phrases references related relating sentence sentences she should some such text than "
    "that the their them then there these they this those token tokens use used various was "
    "well were what when where which while who will with word words would you your"
)
"""Words of explanations that name no concept."""
_EMPTY = frozenset(_FILLERS.split())


class LogProbabilityJudge(ThresholdJudge):
    """
    Scores a pair by how much likelier the steered text makes the concept's tokens.

    The score is the mean over the text's positions of log sum_{c in C} p(c is next) under the
    unsteered model, for the steered text minus the original text, in nats; C are the concept's
    tokens. It asks for the concept's own words, not for its meaning.
    """

    name = "log_probability"

    def __init__(
        self, backend: Backend, tokenizer: Any, *, threshold: Threshold | None = None
    ) -> None:
        super().__init__(threshold)
        self.backend = backend
        self.tokenizer = tokenizer
        self.seen: dict[Written, TextScore] = {}
        """Scores so far: perplexities need no second pass."""

    def settings(self) -> dict[str, Any]:
        return {"dtype": str(self.backend.dtype).removeprefix("torch.")}

    def scorer(self, pairs: Sequence[Pair]) -> Callable[[Pair], float]:
        concepts = {
            concept: concept_tokens(concept, self.tokenizer)
            for concept in dict.fromkeys(pair.concept for pair in pairs)
        }
        wanted: dict[Written, dict[Concept, None]] = {}
        for pair in pairs:
            for written in () if self.why_not(pair) else _both(pair):
                wanted.setdefault(written, {})[concepts[pair.concept]] = None
        scored = score_texts(
            self.backend,
            list(wanted),
            concepts={text: list(found) for text, found in wanted.items()},
        )
        self.seen |= zip(wanted, scored, strict=True)

        def score(pair: Pair) -> float:
            original, steered = (
                self.seen[written].concepts[concepts[pair.concept]]
                for written in _both(pair)
            )
            return steered - original

        return score

    def why_not(self, pair: Pair) -> str:
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

    For each word, the tokens of its forms that are one token (as it is, lower-case,
    capitalised; with and without a space in front); if there is none, the first token of the
    word after a space.
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
        # quoted by a person or a language model, not as JSON
        return text[1:-1]


def _both(pair: Pair) -> tuple[Written, Written]:
    return (
        Written(pair.prompt, pair.original.tokens),
        Written(pair.prompt, pair.steered.tokens),
    )


Concept = tuple[int, ...]
"""Tokens that express a concept."""


@dataclass(frozen=True)
class Written:
    """A prompt and the new tokens after it."""

    prompt: Prompt
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class TextScore:
    """One text under the unsteered model."""

    nll: float
    """Mean negative log-probability of the new tokens, each given all before it, in nats; NaN
    for a text without tokens."""
    n: int
    """Number of new tokens."""
    concepts: dict[Concept, float] = field(default_factory=dict[Concept, float])
    """For each concept asked for, the mean over the positions of the new tokens of
    log sum_{c in concept} p(c is next | text up to there), in nats."""

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
    Score texts under the unsteered model, equal texts once.

    ``concepts`` names the concepts to look for in each text. The logits of a batch are kept together.
    """
    wanted = concepts or {}
    # neighbours of equal length need no padding
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
    tokens, mask = pad_rows([[*text.prompt.tokens, *text.tokens] for text in batch])
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
    # what is expected right after the prompt says nothing about the text
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
    """Perplexities of both texts under the unsteered model; NaN without tokens."""

    original: float
    steered: float


def fluency(
    backend: Backend,
    pairs: Sequence[Pair],
    *,
    seen: Mapping[Written, TextScore] | None = None,
    batch_size: int = 16,
) -> list[Fluency]:
    """
    Return the fluency of each pair's texts under the unsteered model, given their prompt.

    Equal texts are read once, and texts in ``seen``, scored by another judge, not at all.
    """
    known = dict(seen or {})
    texts = [written for pair in pairs for written in _both(pair)]
    new = [text for text in dict.fromkeys(texts) if text not in known]
    known |= zip(new, score_texts(backend, new, batch_size=batch_size), strict=True)
    scores = [known[text] for text in texts]
    return [
        Fluency(original.perplexity, steered.perplexity)
        for original, steered in zip(scores[::2], scores[1::2], strict=True)
    ]
