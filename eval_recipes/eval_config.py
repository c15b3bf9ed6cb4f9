"""The settings of one evaluation, made of its options."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from sae_bench.evals.base_eval_output import BaseEvalConfig

from saereg_plugin.errors import InputError, suggest

Config = TypeVar("Config", bound=BaseEvalConfig)


def eval_config(
    eval: str,
    cls: type[Config],
    options: Mapping[str, Any],
    *,
    shared: Mapping[str, Any],
    fixed: Collection[str] = (),
) -> Config:
    """
    Return an evaluation's settings.

    Args:
        eval: its name, for messages.
        cls: the pydantic dataclass of its settings.
        options: what the user chose.
        shared: settings that the run decides where an option does not.
        fixed: settings that the run alone decides; as options they are unknown.

    Raises:
        InputError: if an option is unknown or has an unusable value.
    """
    known = {field.name for field in dataclasses.fields(cls)} - set(fixed)
    for name in options:
        if name not in known:
            raise InputError(f"Unknown {eval} option {name!r}. {suggest(name, known)}")
    try:
        return TypeAdapter(cls).validate_python({**shared, **options})
    except ValidationError as error:
        causes = "; ".join(
            f"{item['loc'][0]} = {item['input']!r}: {item['msg']}"
            for item in error.errors()
        )
        raise InputError(
            f"Options of evaluation {eval!r} cannot be used ({causes}). "
            "Correct them or leave them out."
        ) from error
