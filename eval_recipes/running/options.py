"""Settings of single evaluations as the command line and a YAML file give them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eval_recipes.registry import recipes
from saereg_plugin.errors import InputError
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
    names = {recipe.name for recipe in recipes(evals)}
    options: dict[str, dict[str, Any]] = {}
    for item in given:
        for name, settings in _parse(item).items():
            recipes([name])
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
