"""Errors that commands print, and helpers for their wording."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


class InputError(ValueError):
    """
    An unusable value from the user.

    The message names the value, what was expected and what to do. It is raised before any
    expensive work starts; commands print it and exit with status 2. Control characters are
    escaped, since the message may quote a downloaded file.
    """

    def __init__(self, message: object):
        super().__init__(printable(str(message)))


class WriteError(RuntimeError):
    """
    A file that cannot be written, for example on a full disk.

    The message names the file or its folder and what to do. Earlier files are kept;
    commands print the message and exit with status 1.
    """

    def __init__(self, message: object):
        super().__init__(printable(str(message)))


def printable(text: str) -> str:
    r"""
    Return text with control and unencodable characters as escapes; breaks and tabs stay.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def brief(value: object, limit: int = 80) -> str:
    """
    Return a value for a message, cut to ``limit`` characters.

    >>> brief("abcdefghijkl", limit=8)
    "'abcd..."
    """
    try:
        text = repr(value)
    except ValueError:
        # Python refuses to write integers of thousands of digits
        text = f"a {type(value).__name__} of too many digits"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


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
