"""Checks of values and dataclasses that configurations share."""

from __future__ import annotations

import dataclasses
import math
import os
import unicodedata
from collections.abc import Callable, Container, Mapping, Sequence
from numbers import Integral, Real
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

from saereg_plugin.errors import InputError, input_error, suggest

T = TypeVar("T")


def require_choice(field: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value outside ``choices``; ``field`` is what it is called in the message."""
    if value not in choices:
        raise InputError(f"{field} is {value!r}. {suggest(str(value), choices)}")


def as_list(names: str | Sequence[str]) -> list[str]:
    """Return a name, or several, as a list."""
    return [names] if isinstance(names, str) else list(names)


def absolute_path(path: str) -> str:
    """Return the absolute path of what exists, "~" expanded; another text as it is."""
    expanded = os.path.expanduser(path)
    return os.path.abspath(expanded) if os.path.exists(expanded) else path


def folder_or_name(name: str, known: Container[str]) -> str:
    """Return the absolute path of a folder, "~" expanded; a known or other name as it is."""
    is_folder = name not in known and os.path.isdir(os.path.expanduser(name))
    return absolute_path(name) if is_folder else name


def whole_number(value: object) -> int | None:
    """
    Return a whole number as an int, or None for anything else; rounds nothing.

    ``1e6``, a float in YAML, is one; True is not.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None


MAX_SEED = 2**32 - 1
"""Largest seed that torch, numpy and scikit-learn all take."""


def require_count(name: str, value: object, *, least: int = 1, most: int) -> None:
    """
    Refuse what is no integer between ``least`` and ``most``.

    Raises:
        InputError: naming the value and the bounds.
    """
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not least <= value <= most
    ):
        raise InputError(
            f"{name} is {value!r}; expected an integer from {least:,} to {most:,}. Correct it "
            "or leave it out."
        )


def require_seed(name: str, seed: object) -> None:
    """
    Refuse a seed that not every random generator takes.

    Raises:
        InputError: if it is no integer, negative or above ``MAX_SEED``.
    """
    require_count(name, seed, least=0, most=MAX_SEED)


def stays_inside(path: str) -> bool:
    """Return whether a path is relative and has no part that leads out of its folder."""
    posix = PurePosixPath(path)
    return bool(
        posix.parts
        and ".." not in posix.parts
        and "\\" not in path
        and not posix.is_absolute()
        and not PureWindowsPath(path).drive
    )


def is_finite(value: object) -> bool:
    """Return whether a value is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "None": "nothing",
}


def require_field_types(config: Any) -> None:
    """
    Refuse fields of a dataclass that are not of their plain type.

    Only fields typed int, float, bool, str, or one of these "or None" are looked at. A
    whole float in an int field becomes an int, numbers of numpy become Python's.

    Raises:
        InputError: naming the field, its value and what was expected.
    """
    for item in dataclasses.fields(config):
        kinds = _kinds(item.type)
        value = getattr(config, item.name)
        if not kinds or (value is None and "None" in kinds):
            continue
        kind = kinds[0]
        settled = _settled(value, kind)
        if settled is None:
            raise InputError(f"{item.name}={value!r}; expected {_EXPECTED[kind]}.")
        if settled is not value:
            object.__setattr__(config, item.name, settled)


def _kinds(annotation: object) -> list[str]:
    """Return the names in a field's type; none if it is not a plain one."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    names = [part.strip() for part in text.split("|")]
    plain = all(name in _EXPECTED for name in names) and names[0] != "None"
    return names if plain and len(names) - ("None" in names) == 1 else []


def _settled(value: object, kind: str) -> object:
    """Return a value as its field holds it, or None if it is of another kind."""
    if kind == "int":
        return whole_number(value)
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if kind == "str":
        return value if isinstance(value, str) else None
    if isinstance(value, float):
        return value
    if not is_finite(value):
        return None
    return value if isinstance(value, int) else float(cast(Real, value))


def require_plain(where: str, value: object) -> None:
    """
    Refuse what JSON cannot hold: other objects, NaN, keys that are no text.

    Args:
        where: what errors call the value.
        value: what YAML, JSON or a Python program gave.
    """
    if isinstance(value, str):
        if any(unicodedata.category(character) == "Cs" for character in value):
            raise InputError(f"{where} is {value!r}; expected text in UTF-8.")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(
                    f"{where} has the key {key!r}; expected text. Put it in quotes."
                )
            require_plain(f"{where}, {key!r}", item)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value, 1):
            require_plain(f"{where}, entry {number}", item)
    elif not (value is None or isinstance(value, bool | int) or is_finite(value)):
        raise InputError(
            f"{where} is {value!r} ({type(value).__name__}); expected a finite number, text, "
            "true, false, a list or a mapping."
        )


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
        return "has control characters or is no text in UTF-8"
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


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,)
)
def checked_dataclass(cls: type[T]) -> type[T]:
    """
    Make a frozen pydantic dataclass that raises ``InputError`` (a decorator).

    Types are strict and unknown fields are refused. The docstring of a field is its
    description in the JSON schema.
    """
    config = ConfigDict(
        strict=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )
    made: Any = dataclass(frozen=True, kw_only=True, config=config)(cls)
    validate: Callable[..., None] = made.__init__

    def __init__(self: Any, **values: Any) -> None:
        try:
            validate(self, **values)
        except ValidationError as error:
            raise input_error(error, made) from error

    made.__init__ = __init__
    return made
