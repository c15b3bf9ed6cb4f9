"""The one error class for bad input, and the hint that goes with a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """
    Something the user gave cannot be used.

    The message names the value, says what was expected and what to do about it.
    It is raised before any expensive work starts; commands print it and exit
    with status 2.
    """


def suggest(name: str, options: Iterable[str]) -> str:
    """
    Return a hint that names the option nearest to ``name``, or every option.

    >>> suggest("weight_penalti", ["weight_penalty", "temporal"])
    "Did you mean 'weight_penalty'?"
    """
    known = sorted(options)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    shown = ", ".join(repr(option) for option in known[:12])
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return f"Known: {shown}{more}." if known else "None are known."
