"""Configurations chosen by name, from dictionaries or JSON text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from saereg_plugin.checks import require_field_types
from saereg_plugin.errors import InputError, suggest

T = TypeVar("T")


def config_from(
    value: Mapping[str, Any] | str,
    known: Mapping[str, type[T]],
    *,
    kind: str,
    example: str,
) -> T:
    """
    Return the configuration that ``value`` describes.

    Args:
        value: fields with ``name``, or those as JSON text.
        known: configuration classes by name.
        kind: what to call it in errors, such as "regulariser".
        example: JSON text of one, for errors.

    Raises:
        InputError: if the text is no JSON object, or names an unknown class or field.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{kind.capitalize()} {value!r} is not JSON ({error}); expected for example "
                f"'{example}'."
            ) from error
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise InputError(
            f"{kind.capitalize()} {value!r} has no name; expected for example {example}."
        )
    name: str = value["name"]
    if name not in known:
        raise InputError(f"Unknown {kind} {name!r}. {suggest(name, known)}")
    return fields_from(
        known[name], {key: item for key, item in value.items() if key != "name"}
    )


def fields_from(cls: type[T], values: Mapping[str, Any]) -> T:
    """
    Return ``cls(**values)``.

    Raises:
        InputError: if a key is no field of the dataclass ``cls`` (names the nearest), a
            field without a default is missing, or one is not of its type.
    """
    known = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in known]
    for key in values:
        if key not in names:
            raise InputError(
                f"{cls.__name__} has no field {key!r}. {suggest(str(key), names)}"
            )
    for field in known:
        optional = (field.default, field.default_factory) != (
            dataclasses.MISSING,
            dataclasses.MISSING,
        )
        if not optional and field.name not in values:
            raise InputError(f"{cls.__name__} needs the field {field.name!r}.")
    made = cls(**values)
    require_field_types(made)
    return made
