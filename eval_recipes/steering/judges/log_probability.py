"""A judge without any server: does the steered text lead the model to expect the concept?"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from eval_recipes.steering.generate.backend import Backend
from eval_recipes.steering.generate.decoding import Continuation
from eval_recipes.steering.judges.offline import ThresholdJudge
from eval_recipes.steering.judges.perplexity import (
    Concept,
    TextScore,
    Written,
    score_texts,
)
from eval_recipes.steering.judges.protocol import Pair, Threshold

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
