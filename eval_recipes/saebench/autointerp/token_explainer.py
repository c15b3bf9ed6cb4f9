"""
Explainer and scorer without a language model, from a latent's tokens.

The explainer sees the marked examples; the scorer sees the explanation and the unmarked
sequences, as a judge would. The scores are not comparable with a judge's: they say nothing
about how well people or language models understand the latent.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from sae_bench.evals.autointerp.main import Examples
from torch import Tensor

from eval_recipes.saebench.autointerp.examples import SeededAutoInterp

N_TOKENS = 10
N_NEAR = 5
NEAR_WINDOW = 3
NEAR_NEEDED = 2
LEAST_SHARE = 0.02

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_LIST = rf"{_QUOTED}(?:, {_QUOTED})*"
_PATTERN = re.compile(rf"the tokens ({_LIST})(?:; near ({_LIST}))?")


@dataclass(frozen=True)
class Marked:
    """One example: its tokens as text, and the latent's activation on each."""

    tokens: Sequence[str]
    activations: Sequence[float]


def normalised(token: str) -> str:
    """
    Return a token without case and surrounding blanks, unless it holds nothing else.

    >>> normalised(" Policy"), normalised("  ")
    ('policy', '  ')
    """
    return token.strip().lower() or token


def explain(examples: Sequence[Marked], background: Mapping[str, float]) -> str:
    """
    Return an explanation such as ``the tokens "policy", "law"; near "public"``.

    A token's share p is its part of the activation, each example scaled to a maximum of 1;
    its share q of all text is in ``background``. The explanation lists the tokens with p of
    at least .02 and the largest p * log(p / q). After "near" come tokens that two or more
    examples have up to three positions before an active token, ranked in the same way.

    ``background`` is the share of each normalised token in the text.
    """
    mass: defaultdict[str, float] = defaultdict(float)
    near: Counter[str] = Counter()
    supporters: Counter[str] = Counter()
    for example in examples:
        names = [normalised(token) for token in example.tokens]
        top = max(example.activations, default=0.0)
        if top <= 0:
            continue
        before: set[str] = set()
        for position, activation in enumerate(example.activations):
            if activation <= 0:
                continue
            mass[names[position]] += activation / top
            nearby = names[max(0, position - NEAR_WINDOW) : position]
            near.update(nearby)
            before.update(nearby)
        supporters.update(before)
    tokens = _distinctive(mass, background, N_TOKENS)
    # a latent that fires on common words only also needs a token
    tokens = tokens or sorted(mass, key=lambda name: (-mass[name], name))[:1]
    candidates = Counter(
        {
            name: count
            for name, count in near.items()
            if supporters[name] > 1 and name not in tokens and name.strip()
        }
    )
    context = _distinctive(candidates, background, N_NEAR)
    if not tokens:
        return ""
    text = f"the tokens {_listed(tokens)}"
    return f"{text}; near {_listed(context)}" if context else text


def predict(explanation: str, sequences: Sequence[Sequence[str]]) -> list[int]:
    """
    Return the numbers, from 1, of the sequences that should activate the latent.

    Those that hold one of the explanation's tokens, or two of the words near them.

    Raises:
        ValueError: if the text is none of ``explain``'s.
    """
    tokens, near = _read(explanation)
    chosen: list[int] = []
    for number, sequence in enumerate(sequences, start=1):
        names = {normalised(token) for token in sequence}
        if names & tokens or len(names & near) >= NEAR_NEEDED:
            chosen.append(number)
    return chosen


def _distinctive(
    mass: Mapping[str, float], background: Mapping[str, float], most: int
) -> list[str]:
    total = math.fsum(mass.values())
    # A token that the text lacks counts as rare as the rarest.
    rarest = min(background.values(), default=1.0)
    scored: list[tuple[float, str]] = []
    for token, amount in mass.items():
        share = amount / total
        gain = share * math.log(share / background.get(token, rarest))
        if share >= LEAST_SHARE and gain > 0:
            scored.append((-gain, token))
    return [token for _, token in sorted(scored)[:most]]


def _listed(tokens: Sequence[str]) -> str:
    return ", ".join(json.dumps(token, ensure_ascii=False) for token in tokens)


def _read(explanation: str) -> tuple[set[str], set[str]]:
    match = _PATTERN.fullmatch(explanation)
    if match is None:
        raise ValueError(f"{explanation!r} is no explanation of the token explainer")
    tokens, near = (
        {json.loads(quoted) for quoted in re.findall(_QUOTED, group or "")}
        for group in match.groups()
    )
    return tokens, near


class TokenAutoInterp(SeededAutoInterp):
    """Upstream's examples, explained and scored by ``token_explainer``."""

    def __init__(
        self, *args: Any, background: Mapping[str, float], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.background = background

    async def run_single_feature(
        self,
        executor: ThreadPoolExecutor,
        latent: int,
        generation_examples: Examples,
        scoring_examples: Examples,
        explanation_override: str | None = None,
    ) -> dict[str, Any] | None:
        """Explain and score one latent on its checked examples."""
        scored, examples = self.scored[latent], self.checked[latent]
        marked = [
            Marked([str(token) for token in example.str_toks], example.acts)
            for example in generation_examples
        ]
        scored.explanation = explain(marked, self.background)
        if examples is None:
            return None
        scored.active = self.labels(latent)
        scored.predictions = predict(
            scored.explanation,
            [[str(token) for token in example.str_toks] for example in examples],
        )
        # Upstream's format of one latent; its figure of the SAE is replaced, see the output.
        return {"latent": latent, "explanation": scored.explanation, "score": 0.0}


def background_of(tokens: Tensor, tokenizer: Any) -> dict[str, float]:
    """Return the share of each normalised token in the text."""
    ids, counts = torch.unique(tokens, return_counts=True)
    texts = tokenizer.batch_decode(ids[:, None], clean_up_tokenization_spaces=False)
    merged: Counter[str] = Counter()
    for text, count in zip(texts, counts.tolist(), strict=True):
        merged[normalised(text)] += count
    total = merged.total()
    return {token: count / total for token, count in merged.items()}
