"""Settings of single evaluations, from the command line or a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from eval_recipes.registry import evaluation_names
from saereg_plugin.errors import InputError, brief, expected_value, suggest
from saereg_plugin.yaml_text import load_yaml, read_yaml


def read_options(
    given: Iterable[str], evals: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """
    Return settings by evaluation and name, for ``RunContext.options``.

    Args:
        given: each either ``eval.name=value``, the value in YAML, or a file
            ``<name>.yaml`` that maps evaluations to their settings. A later one wins.
        evals: the evaluations that will run.

    Raises:
        InputError: for what is neither, for a file that is no such mapping, and for an
            evaluation that is unknown or will not run. Names of settings are checked
            by the evaluation itself.
    """
    names = set(evaluation_names(evals))
    options: dict[str, dict[str, Any]] = {}
    for item in given:
        for name, settings in _parse(item).items():
            evaluation_names([name])
            if name not in names:
                raise InputError(
                    f"{item!r} is for the evaluation {name!r}, which does not run; expected one "
                    f"of {', '.join(sorted(names))}. Add it to --evals or leave it out."
                )
            options.setdefault(name, {}).update(settings)
    return options


def _parse(item: str) -> dict[str, dict[str, Any]]:
    key, equals, text = item.partition("=")
    if not equals:
        return _file(Path(item))
    name, dot, setting = key.strip().partition(".")
    if not (dot and name and setting):
        raise InputError(
            f"Option {item!r} is not eval.name=value; expected for example "
            "core.eval_batch_size_prompts=4."
        )
    if not text.strip():
        raise InputError(
            f"Option {item!r} has no value; expected one after '='. Write null for none."
        )
    value = load_yaml(text, source=f"Option {item!r}: the value")
    return {name: {setting: value}}


def _file(path: Path) -> dict[str, dict[str, Any]]:
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"Option {str(path)!r} is neither eval.name=value nor a YAML file; expected for example "
            "--option core.eval_batch_size_prompts=4, or --options settings.yaml."
        )
    found = read_yaml(path)
    if not isinstance(found, dict) or not all(
        isinstance(settings, dict) for settings in found.values()
    ):
        raise InputError(
            f"File {str(path)!r} does not map evaluations to settings; expected for example "
            "'core: {eval_batch_size_prompts: 4}'."
        )
    return {str(name): dict(settings) for name, settings in found.items()}


Options = TypeVar("Options")


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


def parse_options(
    eval: str,
    cls: type[Options],
    given: Mapping[str, Any],
    shared: Mapping[str, Any],
    *,
    run_decides: Mapping[str, str] = {},
) -> Options:
    """
    Return the settings of an evaluation, each checked on its field.

    Values are read as JSON is: a list may stand for a tuple and a whole number for a float, but
    no text or boolean for a number.

    Args:
        eval: name of the evaluation, for messages.
        cls: pydantic dataclass of the settings.
        given: what the user chose.
        shared: defaults that the run decides.
        run_decides: settings of ``shared`` that no option may change, and what the run calls them.

    Raises:
        InputError: for an unknown option, with the nearest one, or an unusable value.
    """
    known = [field.name for field in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    for name in given:
        if name not in known:
            raise InputError(
                f"Unknown {eval} option {name!r}. {suggest(str(name), known)}"
            )
        if name in run_decides:
            of = run_decides[name]
            raise InputError(
                f"Option {name!r} of evaluation {eval!r} would hold for a part of the run only; "
                f"expected it for all of it: --{of.replace('_', '-')} (RunContext.{of})."
            )
    check_sizes(eval, given)
    text = to_json({**shared, **given}, fallback=repr)
    try:
        return TypeAdapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        raise InputError(
            f"{_refusal(eval, error)} Correct it or leave it out."
        ) from error


def _refusal(eval: str, error: ValidationError) -> str:
    """Return one sentence on the first value that a field refuses."""
    item = error.errors()[0]
    place = ".".join(map(str, (eval, *item["loc"])))
    return f"Option {place} is {brief(item['input'])}; expected {expected_value(item)}."
