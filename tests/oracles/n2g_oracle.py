"""
N2G the slow way, from its definition: patterns as lists, no trie.

1. Let a be the largest activation of the text, and the text end there.
2. The minimal suffix is the shortest that alone brings half of a or more.
3. A place matters if another token there takes away half of the suffix's activation or more.
4. A suffix that a token before it brings below half of a is one of a text's beginning.
5. If no suffix is long enough, all of the text is the pattern, by its own activation. What it
   lacks stands before it, so it is no beginning of a text, and its last token matters always.
   If it does not fire by itself, there is no pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Fires = Callable[[Sequence[int]], float]
"""Returns the activation on the last token of a sequence."""
Found = tuple[tuple[int | None, ...], bool, float]
"""Tokens (None for any), whether they begin a text, activation."""


def pattern(
    tokens: Sequence[int], acts: Sequence[float], fires: Fires, padding: int
) -> Found | None:
    """Return the pattern of one example; None if it has none."""
    top = max(acts)
    if top <= 0:
        return None
    text = list(tokens)[: list(acts).index(top) + 1]
    suffixes = [text[first:] for first in reversed(range(len(text)))]
    enough = [suffix for suffix in suffixes if fires(suffix) >= top / 2]
    minimal = min(enough, key=len) if enough else text
    own = fires(minimal)
    if own <= 0:
        return None

    def matters(place: int) -> bool:
        without = [*minimal[:place], padding, *minimal[place + 1 :]]
        return own - fires(without) >= own / 2

    places = {place for place in range(len(minimal)) if matters(place)}
    begins = fires([padding, *minimal]) < top / 2
    if not enough:
        places.add(len(minimal) - 1)
        begins = False
    kept = [token if i in places else None for i, token in enumerate(minimal)]
    return tuple(kept), begins, own


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
