"""Fluency: is the steered text still one that the model would write?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval_recipes.steering.generate.backend import Backend
from eval_recipes.steering.judges.perplexity import TextScore, Written, score_texts
from eval_recipes.steering.judges.protocol import Pair


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
