"""Flags that commands share, and their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar

from typer import Context, Option

from eval_recipes.registry import RECIPES

_DATA = "Model and data"


class Split(str, Enum):
    """Choices of ``--split``."""

    train = "train"
    heldout = "heldout"
    all = "all"


class RowsChoice(str, Enum):
    """Choices of ``--rows``."""

    all = "all"
    cls = "cls"
    patches = "patches"
    mean = "mean"
    frames = "frames"


Model = Annotated[
    str,
    Option(
        help="TransformerLens name, local Hugging Face folder, or embedded model; with --source "
        "module a vision or audio model.",
        rich_help_panel=_DATA,
    ),
]
Hook = Annotated[
    list[str] | None,
    Option(
        metavar="NAMES",
        help="Hook points, or submodules of a module, by commas or repetition; patterns such "
        "as 'blocks.*.hook_resid_post' choose several. Each group is trained on each.",
        show_default="blocks.2.hook_resid_post",
        rich_help_panel=_DATA,
    ),
]
Source = Annotated[
    str | None,
    Option(
        help="Where activations come from: language_model, module (--model, --hook, --rows, "
        "--data), or the path of arrays or of a cache.",
        show_default="language_model",
        rich_help_panel=_DATA,
    ),
]
Data = Annotated[
    list[str] | None,
    Option(
        metavar="NAMES",
        help="Inputs of a module: mnist, emoji, speech, non-speech, or a folder of images or "
        "audio; by commas or repetition.",
        rich_help_panel=_DATA,
    ),
]
Rows = Annotated[
    RowsChoice | None,
    Option(
        help="Rows of a module's output: all, cls, patches, mean, frames.",
        show_default="all",
        rich_help_panel=_DATA,
    ),
]
ImageSize = Annotated[
    int | None,
    Option(
        help="Height and width of a module's images, instead of its own.",
        min=1,
        rich_help_panel=_DATA,
    ),
]
Corpus = Annotated[
    str,
    Option(help="Hub or local datasets path, or 'embedded'.", rich_help_panel=_DATA),
]
LlmDtype = Annotated[
    str,
    Option(
        help="Data type of the language model; auto: bfloat16 where the hardware has it, also "
        "on CPUs. (saereg-bench run has float32 on CPUs.)",
        rich_help_panel=_DATA,
    ),
]
_N = TypeVar("_N", int, float)
_COMMA = re.compile(r",(?![^\[\]]*\])")


def flags_given(context: Context) -> set[str]:
    """Return the names of the flags that the user gave."""
    return {
        name
        for name in context.params
        if getattr(context.get_parameter_source(name), "name", None) == "COMMANDLINE"
    }


def listed(values: Iterable[str] | None) -> list[str]:
    """
    Return the values of a flag that may be repeated, hold commas, or both.

    Commas in square brackets, as in a shell pattern, do not separate.

    >>> listed(["a,b", " c ", ","])
    ['a', 'b', 'c']
    >>> listed(["seed[0,1],l2-*"])
    ['seed[0,1]', 'l2-*']
    """
    parts = [part.strip() for value in values or () for part in _COMMA.split(value)]
    return [part for part in parts if part]


def listed_numbers(
    flag: str, values: Iterable[str] | None, kind: Callable[[str], _N]
) -> list[_N]:
    """
    Return the numbers of a flag that may be repeated, hold commas, or both.

    ``kind`` is int or float.

    Raises:
        InputError: for another value, naming the flag.
    """
    from saereg_plugin.errors import InputError

    try:
        return [kind(part) for part in listed(values)]
    except ValueError as error:
        expected = "whole numbers" if kind is int else "numbers"
        raise InputError(
            f"{flag} {','.join(values or ())!r}; expected {expected}, such as {flag} 0,1,2."
        ) from error


def offline_sources(
    names: list[str],
    corpus: str | None,
    data: str | None,
    flags: dict[str, str | None],
) -> tuple[str, str]:
    """
    Return corpus and data of ``--offline``, and enter its explainer into the chat model's flags.

    Raises:
        InputError: if a flag asks for something that is not offline.
    """
    from saereg_plugin.errors import InputError

    for flag in ("judge_model", "judge_base_url"):
        if flags.get(flag) is not None:
            raise InputError(
                f"--offline asks no chat model, and --{flag.replace('_', '-')} {flags[flag]} was "
                "given. Leave one of them out."
            )
    wanted = {"corpus": "embedded", "data": "embedded", "explainer": "tokens"}
    found = {"corpus": corpus, "data": data, "explainer": flags["explainer"]}
    for flag, value in found.items():
        # a text in a folder is offline, too
        local = flag == "corpus" and value is not None and Path(value).is_dir()
        if value not in (None, wanted[flag]) and not local:
            raise InputError(
                f"--offline stands for --{flag} {wanted[flag]}, and --{flag} {value} was given. "
                "Leave one of them out."
            )
    if judged_evaluations(names):
        flags["explainer"] = wanted["explainer"]
    return corpus or wanted["corpus"], wanted["data"]


def judged_evaluations(names: list[str]) -> list[str]:
    """Return the evaluations that ask a chat model; unknown names are left out."""
    from eval_recipes.chat.options import ChatOptions
    from eval_recipes.registry import load_evaluation

    return [
        name
        for name in names
        if name in RECIPES and issubclass(load_evaluation(name).Options, ChatOptions)
    ]


def judge_flags(names: list[str], flags: dict[str, str | None]) -> list[str]:
    """Return the flags of a chat model as options of the evaluations that ask one."""
    import json

    return [
        # nothing would be YAML's null, and so the default
        f"{name}.{flag}={value or json.dumps(value)}"
        for name in judged_evaluations(names) or ["autointerp"]
        for flag, value in flags.items()
        if value is not None
    ]


def explanations_flag(place: Path | None) -> list[str]:
    """Return ``--explanations`` as an option of steering."""
    import json

    return [] if place is None else [f"steering.explanations={json.dumps(str(place))}"]


def facts_flag(place: str | None) -> list[str]:
    """Return ``--facts`` as an option of steering."""
    import json

    return [] if place is None else [f"steering.facts={json.dumps(place)}"]


def contrast_flag(select: tuple[str, str, str] | None) -> list[str]:
    """
    Return ``--select contrast A.txt B.txt`` as options of steering.

    Raises:
        InputError: for another word than ``contrast``.
    """
    import json

    from saereg_plugin.errors import InputError

    if select is None:
        return []
    how, towards, away = select
    if how != "contrast":
        raise InputError(
            f"--select {how!r}; expected 'contrast' and two files of texts. Other choices are "
            "options: --option steering.select=stable."
        )
    return [
        "steering.select=contrast",
        f"steering.contrast={json.dumps([towards, away])}",
    ]
