"""Checks of single values that configurations share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

from saereg_plugin.errors import InputError, suggest


def require_choice(field: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value outside ``choices``; ``field`` is what it is called in the message."""
    if value not in choices:
        raise InputError(f"{field} is {value!r}. {suggest(str(value), choices)}")


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
