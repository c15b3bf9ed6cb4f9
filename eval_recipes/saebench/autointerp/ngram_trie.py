"""Shortest token sequences that activate a latent, in a trie (N2G)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

LEAST_SHARE = 0.5
"""Least share of an example's activation that its shortest suffix must reach."""
LEAST_SALIENCY = 0.5
"""Saliency below which any token may stand in a place."""
_ANY = None
"""Key of the trie's edge that any token takes."""

Activate = Callable[[Sequence[Sequence[int]]], Sequence[float]]
"""Returns the latent's activation on the last token of each sequence, which begins a text."""


@dataclass(frozen=True)
class Example:
    """Tokens of a text, and the latent's activation on each."""

    tokens: Sequence[int]
    activations: Sequence[float]

    def up_to_peak(self) -> tuple[list[int], float]:
        """Return the tokens up to the first one of the largest activation, and that."""
        top = max(self.activations, default=0.0)
        if top <= 0:
            return [], top
        return list(self.tokens[: list(self.activations).index(top) + 1]), top


@dataclass(frozen=True)
class Pattern:
    """Tokens on whose last one a latent fires."""

    tokens: tuple[int | None, ...]
    """In the order of the text; None stands for any token."""
    starts_text: bool
    """Whether the latent needs the sequence at the beginning of a text."""
    activation: float


def find_patterns(
    examples: Iterable[Example], activate: Activate, *, padding: int
) -> list[Pattern]:
    """
    Return the pattern of each example in which the latent fires.

    N2G (arXiv 2305.19911) as the public code of arXiv 2406.04093 has it. An example ends at
    its largest activation a. Its shortest suffix whose own activation s is at least a / 2 is
    taken. Position i has the saliency 1 - s_i / s, s_i with ``padding`` in place of its token;
    below 1/2 any token may stand there. The pattern needs the beginning of a text if
    ``padding`` before it brings the activation below a / 2.

    An example that needs what stands before it has no such suffix. As in the code of arXiv
    2305.19911 the whole of it is taken, with its own activation s, and its last token stays
    exact; it counts anywhere, and is left out if s is 0. (The code of arXiv 2406.04093 takes a
    for s there, and then finds that the pattern needs the beginning of a text, whatever stands
    before it.)

    Args:
        examples: the explained ones.
        activate: runs the model.
        padding: a token that says little.
    """
    cut = [
        (tokens, top) for tokens, top in (e.up_to_peak() for e in examples) if tokens
    ]
    taken = [
        (tokens, own, top)
        for (_, top), (tokens, own) in zip(
            cut, _shortest_suffixes(cut, activate), strict=True
        )
        if own > 0
    ]
    padded = activate([[padding, *tokens] for tokens, _, _ in taken]) if taken else []
    replaced = [
        [*tokens[:place], padding, *tokens[place + 1 :]]
        for tokens, _, _ in taken
        for place in range(len(tokens))
    ]
    remaining = iter(activate(replaced) if replaced else [])
    found: list[Pattern] = []
    for (tokens, own, top), moved in zip(taken, padded, strict=True):
        saliencies = [1 - next(remaining) / own for _ in tokens]
        kept: list[int | None] = [
            token if saliency >= LEAST_SALIENCY else _ANY
            for token, saliency in zip(tokens, saliencies, strict=True)
        ]
        suffices = own / top >= LEAST_SHARE
        if not suffices:
            kept[-1] = tokens[-1]
        starts_text = suffices and moved / top < LEAST_SHARE
        found.append(Pattern(tuple(kept), starts_text, own))
    return found


def _shortest_suffixes(
    cut: Sequence[tuple[list[int], float]], activate: Activate
) -> list[tuple[list[int], float]]:
    """
    Return the shortest suffix of each text that reaches half, with its activation.

    If none does, it is the whole text.
    """
    found = list(cut)
    waiting, length = list(range(len(cut))), 1
    while waiting:
        suffixes = [cut[number][0][-length:] for number in waiting]
        for number, suffix, own in zip(
            list(waiting), suffixes, activate(suffixes), strict=True
        ):
            tokens, top = cut[number]
            if own / top >= LEAST_SHARE or len(suffix) == len(tokens):
                found[number] = suffix, own
                waiting.remove(number)
        length += 1
    return found


@dataclass
class _Node:
    """What follows, going back in the text, and the activation of a pattern that ends here."""

    children: dict[int | None, _Node] = field(default_factory=dict[int | None, "_Node"])
    anywhere: float = 0.0
    at_start: float = 0.0


class Trie:
    """
    Patterns by their reversed tokens.

    The prediction on a token is the largest activation among the patterns that end there, and
    0 without one. (The public code follows one branch only, and misses patterns.)
    """

    def __init__(self, patterns: Iterable[Pattern]):
        self._root = _Node()
        for pattern in patterns:
            node = self._root
            for token in reversed(pattern.tokens):
                node = node.children.setdefault(token, _Node())
            if pattern.starts_text:
                node.at_start = max(node.at_start, pattern.activation)
            else:
                node.anywhere = max(node.anywhere, pattern.activation)

    @property
    def last_tokens(self) -> set[int] | None:
        """Tokens on which a pattern may end; None for all."""
        if _ANY in self._root.children:
            return None
        return {token for token in self._root.children if token is not None}

    def predict(
        self, tokens: Sequence[int], place: int, *, starts_text: bool = True
    ) -> float:
        """
        Return the predicted activation on ``tokens[place]``.

        ``starts_text`` says whether ``tokens`` are the beginning of a text.
        """
        best, nodes = 0.0, [self._root]
        for back in range(place, -1, -1):
            token = tokens[back]
            nodes = [
                child
                for node in nodes
                for key in (token, _ANY)
                if (child := node.children.get(key)) is not None
            ]
            if not nodes:
                return best
            best = max(best, *(node.anywhere for node in nodes))
        if starts_text:
            best = max(best, *(node.at_start for node in nodes))
        return best


def described(patterns: Iterable[Pattern], text_of: Callable[[int], str]) -> str:
    """
    Return the patterns as text, those of the largest activation first.

    ``*`` is any token, ``^`` the beginning of a text.

    >>> one = Pattern((5, None, 7), False, 2.0)
    >>> described([one, Pattern((7,), True, 1.0)], {5: " the", 7: " dog"}.__getitem__)
    'the token sequences " the" * " dog"; ^ " dog"'
    """
    ordered = sorted(patterns, key=lambda one: -one.activation)
    texts = dict.fromkeys(_text(pattern, text_of) for pattern in ordered)
    return f"the token sequences {'; '.join(texts)}" if texts else ""


def _text(pattern: Pattern, text_of: Callable[[int], str]) -> str:
    tokens = [
        "*" if token is None else json.dumps(text_of(token), ensure_ascii=False)
        for token in pattern.tokens
    ]
    return " ".join(["^", *tokens] if pattern.starts_text else tokens)
