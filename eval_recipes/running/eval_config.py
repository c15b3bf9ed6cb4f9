"""The settings of one evaluation, made of its options."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from sae_bench.evals.base_eval_output import BaseEvalConfig

from saereg_plugin.errors import InputError, suggest

Config = TypeVar("Config", bound=BaseEvalConfig)


MOST_AT_ONCE = 1 << 16
"""Largest batch, of texts, rows or contexts."""

_MOST_OF_ALL = 10**9
_MOST = {
    "n_resamples": 10**6,
    "n_eval_reconstruction_batches": 10**5,
    "n_eval_sparsity_variance_batches": 10**5,
    "matching_threads": 1024,
    "judge_concurrency": 1024,
}


def check_sizes(eval: str, options: Mapping[str, Any]) -> None:
    """
    Refuse options that are no finite numbers, or larger than anything could serve.

    Raises:
        InputError: naming the option and its largest value.
    """
    for name, value in options.items():
        most = _MOST.get(name, MOST_AT_ONCE if "batch_size" in name else _MOST_OF_ALL)
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, (int, float)) and not abs(number) <= most:
                shown = str(number)[:40]
                raise InputError(
                    f"Option {eval}.{name} is {shown}; expected a finite number of at most "
                    f"{most:,}. Choose another one."
                )


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
    check_sizes(eval, options)
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
