"""Errors that commands print, and helpers for their wording."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails


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
    A file that cannot be written, on a full disk for example, or an upload that failed.

    The message names the file, folder or repository and what to do. Earlier files are kept;
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


def brief(value: object) -> str:
    """Return a value for a message, cut to 80 characters."""
    try:
        text = repr(value)
    except ValueError:
        # Python refuses to write integers of thousands of digits
        text = f"a {type(value).__name__} of too many digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


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


def suggest_path(path: str | Path) -> str:
    """
    Return a hint that names the existing file or folder nearest to a missing path, or "".

    Every misspelt part of the path is replaced by its nearest neighbour.
    """
    found = Path()
    for part in Path(path).parts:
        following = found / part
        if not following.exists():
            readable = found.is_dir() and os.access(found, os.R_OK | os.X_OK)
            names = [each.name for each in found.iterdir()] if readable else []
            near = difflib.get_close_matches(part, names, n=1)
            if not near:
                return ""
            following = found / near[0]
        found = following
    return "" if found == Path(path) else f"Did you mean {str(found)!r}?"


_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "is_instance_of": "a list",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "sequence_str": "a list",
    "string_type": "text",
    "string_unicode": "text in UTF-8",
    "too_short": "{min_length} or more entries",
    "tuple_type": "a list",
}
"""Words for the expected value, by pydantic's type of error."""


def input_error(error: ValidationError, cls: Any) -> InputError:
    """
    Return pydantic's errors as one ``InputError``.

    Its message names each field, its value, what was expected and what to do.

    Args:
        error: the errors.
        cls: the pydantic dataclass that raised them.
    """
    return InputError(" ".join(_sentence(item, cls) for item in error.errors()))


def expected_value(error: ErrorDetails) -> str:
    """Return words for the value that pydantic expected."""
    words = _EXPECTED.get(error["type"])
    if words is None:
        return error["msg"].removeprefix("Input should be ")
    return words.format(**error.get("ctx", {}))


def _sentence(error: ErrorDetails, cls: Any) -> str:
    kind, place = error["type"], error["loc"]
    context = error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    fields = cls.__pydantic_fields__
    name = str(place[0])
    if kind == "missing":
        return f"the field {name!r} is missing. Add it."
    if kind == "unexpected_keyword_argument":
        return f"unknown field {name!r}. {suggest(name, fields)}"
    expected = expected_value(error)
    remedy = "." if fields[name].is_required() else ", or leave it out."
    return f"{_named(place, error['input'])}; expected {expected}. Correct it{remedy}"


def _named(place: Sequence[str | int], value: object) -> str:
    """Return the place and value of a mistake, such as "tokens=0" or "seeds has 1.5"."""
    field, *inner = place
    if not inner:
        return f"{field}={brief(value)}"
    if inner[-1] == "[key]":
        return f"{field} has the key {brief(value)}"
    if isinstance(inner[-1], int):
        return f"{field} has {brief(value)}"
    return f"{field}: {inner[-1]!r} is {brief(value)}"
