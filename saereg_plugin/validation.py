"""Frozen dataclasses whose fields pydantic checks, with errors for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails
from typing_extensions import dataclass_transform

from saereg_plugin.checks import is_finite, whole_number
from saereg_plugin.errors import InputError, brief, suggest

T = TypeVar("T")

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_type": "a whole number",
    "is_instance_of": "a list",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "sequence_str": "a list",
    "string_type": "text",
    "string_unicode": "text in UTF-8",
    "too_short": "at least {min_length} of them",
}
"""What was expected, by pydantic's name of the mistake."""


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,)
)
def checked_dataclass(cls: type[T]) -> type[T]:
    """
    Make a frozen pydantic dataclass that raises ``InputError`` (a decorator).

    Types are strict and unknown fields are refused. The docstring of a field is its
    description in the JSON schema. An ``InputError`` of a validator keeps its message.
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


def input_error(error: ValidationError, cls: Any) -> InputError:
    """
    Return pydantic's errors as one ``InputError``.

    It names each field with its value, what was expected, and what to do.

    Args:
        error: what pydantic raised.
        cls: the pydantic dataclass that was to be made.
    """
    return InputError(" ".join(_sentence(item, cls) for item in error.errors()))


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
    expected = _EXPECTED.get(kind, error["msg"]).format_map(context)
    remedy = "." if fields[name].is_required() else ", or leave it out."
    return f"{_named(place, error['input'])}; expected {expected}. Correct it{remedy}"


def _named(place: Sequence[str | int], value: object) -> str:
    """Return where a value is and what it is, such as "tokens=0" or "seeds has 1.5"."""
    field, *inner = place
    if not inner:
        return f"{field}={brief(value)}"
    if inner[-1] == "[key]":
        return f"{field} has the key {brief(value)}"
    if isinstance(inner[-1], int):
        return f"{field} has {brief(value)}"
    return f"{field}: {inner[-1]!r} is {brief(value)}"


def _whole(value: object) -> object:
    number = whole_number(value)
    return value if number is None else number


def _number(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Check a number as a float; an integer stays one, as it was written."""
    plain = isinstance(value, int | float) or not is_finite(value)
    checked = check(value if plain else float(value))
    return value if isinstance(value, int) else checked


WHOLE = BeforeValidator(_whole)
"""Annotates an int that may be written as a float without a fraction, such as 1e6."""
NUMBER = WrapValidator(_number)
"""Annotates a float that may be written, and is then kept, as an int."""
