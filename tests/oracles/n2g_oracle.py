"""N2G the slow way: every suffix and replacement by itself, patterns as lists, no trie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Fires = Callable[[Sequence[int]], float]
"""Returns the activation on the last token of a sequence."""
Found = tuple[tuple[int | None, ...], bool, float]
"""Tokens (None for any), whether they begin a text, activation."""


def pattern(
    tokens: Sequence[int], acts: Sequence[float], fires: Fires, padding: int
) -> Found | None:
    """Return the pattern of one example; None if the latent does not fire in it."""
    top = max(acts)
    if top <= 0:
        return None
    text = list(tokens)[: list(acts).index(top) + 1]
    minimal, own = text, top
    for length in range(1, len(text) + 1):
        suffix = text[len(text) - length :]
        if fires(suffix) / top >= 0.5:
            minimal, own = suffix, fires(suffix)
            break
    kept: list[int | None] = []
    for place, token in enumerate(minimal):
        replaced = list(minimal)
        replaced[place] = padding
        kept.append(token if 1 - fires(replaced) / own >= 0.5 else None)
    return tuple(kept), fires([padding, *minimal]) / top < 0.5, own


def predict(patterns: Sequence[Found], tokens: Sequence[int], place: int) -> float:
    """Return the largest activation among the patterns that end at ``place``."""
    best = 0.0
    for wanted, starts_text, activation in patterns:
        first = place + 1 - len(wanted)
        if first < 0 or (starts_text and first > 0):
            continue
        text = tokens[first : place + 1]
        if all(w is None or w == t for w, t in zip(wanted, text, strict=True)):
            best = max(best, activation)
    return best


def counts(
    patterns: Sequence[Found],
    contexts: Sequence[Sequence[int]],
    fired: Sequence[Sequence[bool]],
) -> tuple[int, int, int, int]:
    """Return tokens, fired tokens, predicted tokens, and both."""
    n_tokens = n_fired = n_predicted = n_both = 0
    for tokens, row in zip(contexts, fired, strict=True):
        for place, fires in enumerate(row):
            guess = predict(patterns, tokens, place) > 0
            n_tokens += 1
            n_fired += fires
            n_predicted += guess
            n_both += guess and fires
    return n_tokens, n_fired, n_predicted, n_both
