"""Checks of single values that configurations share."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import ClassVar

from saereg_plugin.errors import InputError, suggest


def require_choice(field: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value outside ``choices``; ``field`` is what it is called in the message."""
    if value not in choices:
        raise InputError(f"{field} is {value!r}. {suggest(str(value), choices)}")


MAX_NAME_BYTES = 200
"""Longest name, in bytes of UTF-8: of 255, a file's name needs some for its ending."""


def require_name(what: str, value: object, *, slashes: bool = False) -> str:
    """
    Return ``value`` if it can be stored in a file's name that every reader finds.

    Args:
        what: what the name is of, such as "Release name"; begins the message.
        value: the name.
        slashes: allow several parts with "/" between them.

    Raises:
        InputError: for no text, an empty name, control characters or text that UTF-8
            cannot encode, a leading dot, a part that is empty, "." or "..", a backslash,
            a "/" unless ``slashes``, or more than ``MAX_NAME_BYTES`` bytes.
    """
    if not isinstance(value, str):
        raise InputError(
            f"{what} is {value!r}, a {type(value).__name__}; expected text. Put it in quotes."
        )
    reason = _fault_of_name(value, slashes=slashes)
    if reason is not None:
        shown = value if len(value) <= 80 else f"{value[:77]}..."
        raise InputError(
            f"{what} {shown!r} {reason}, and becomes part of file names; expected "
            f"1 to {MAX_NAME_BYTES} bytes of text such as 'k32-seed0'. Choose another name."
        )
    return value


def _fault_of_name(name: str, *, slashes: bool) -> str | None:
    """Return what is wrong with a name, as the end of a sentence, or None."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "has characters that cannot be shown"
    if not name.strip():
        return "is empty"
    if name.startswith("."):
        return "begins with a dot"
    if "\\" in name or ("/" in name and not slashes):
        return "has a slash or backslash in it"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "has an empty part or one of dots alone"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"has {len(name.encode())} bytes"
    return None


class FieldChecks:
    """
    Checks of its own fields, for a configuration with a ``name``.

    Each raises an ``InputError`` that names the configuration, the field, its value and
    what was expected.
    """

    name: ClassVar[str]

    def require(self, field: str, holds: bool, expected: str) -> None:
        """Refuse the value of a field unless ``holds``."""
        if not holds:
            raise InputError(
                f"{self.name}: {field} is {getattr(self, field)!r}; expected {expected}."
            )

    def require_choice(self, field: str, choices: Sequence[str]) -> None:
        """Refuse a value of a field outside ``choices``."""
        require_choice(f"{self.name}: {field}", getattr(self, field), choices)

    def require_count(self, field: str, least: int = 1) -> None:
        """Refuse a value of a field that is no integer of at least ``least``."""
        value = getattr(self, field)
        whole = isinstance(value, int) and not isinstance(value, bool)
        self.require(
            field, whole and value >= least, f"a whole number, {least} or more"
        )

    def require_number(
        self, field: str, holds: Callable[[float], bool], expected: str
    ) -> None:
        """Refuse a value of a field that is not finite or for which not ``holds``."""
        value = getattr(self, field)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        self.require(field, number and math.isfinite(value) and holds(value), expected)
