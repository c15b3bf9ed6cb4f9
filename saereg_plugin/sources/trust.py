"""Rules for the language models that a release names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saereg_plugin.errors import InputError, brief
from saereg_plugin.sources.model_folders import EMBEDDED

FLAG = "--trust-remote-code"


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _flag_or_null(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count_or_null(value: object) -> bool:
    return value is None or _count(value)


def _side(value: object) -> bool:
    return value in (None, "left", "right")


HARMLESS: Mapping[str, Callable[[object], bool]] = {
    "center_unembed": _flag,
    "center_writing_weights": _flag,
    "checkpoint_index": _count_or_null,
    "checkpoint_value": _count_or_null,
    "default_padding_side": _side,
    "default_prepend_bos": _flag_or_null,
    "first_n_layers": _count_or_null,
    "fold_ln": _flag,
    "fold_value_biases": _flag,
    "n_ctx": _count_or_null,
    "n_devices": _count,
    "refactor_factored_attn_matrices": _flag,
}
"""
Loader arguments that only choose how known weights are used, and their plain values.

``revision`` is left out: a hub repository's pull requests are revisions, and anybody can open
one. ``attn_implementation`` can name a hub repository of compiled code.
"""


def require_harmless(given: object, *, trusted: bool, source: str) -> dict[str, Any]:
    """
    Return the arguments that a release gives for the loader of its language model.

    Args:
        given: ``model_from_pretrained_kwargs`` of an SAE's metadata.
        trusted: pass on whatever the release says.
        source: what errors call the SAE, such as "SAE 'k32-seed0'".

    Raises:
        InputError: for anything but ``HARMLESS`` with plain values, unless ``trusted``.
    """
    if given is not None and not isinstance(given, Mapping):
        raise InputError(
            f"{source} has model_from_pretrained_kwargs = {brief(given)}; expected a mapping of "
            "arguments. Correct its cfg.json or leave it out."
        )
    arguments: dict[str, Any] = dict(given or {})
    for name, value in arguments.items():
        known = HARMLESS.get(name)
        if trusted or (known is not None and known(value)):
            continue
        raise InputError(
            f"{source} wants its language model loaded with {name}={brief(value)}, which may run "
            f"code; expected only {', '.join(HARMLESS)}, with plain values. Leave the SAE out, "
            f"or give {FLAG} if you trust the release."
        )
    return arguments


def is_inside(path: object, folder: Path) -> bool:
    """Whether ``path`` is there and leads into ``folder``, links followed or not."""
    if not isinstance(path, str) or "\0" in path or not os.path.lexists(path):
        return False
    roots = {folder.absolute(), folder.resolve()}
    spelled = {Path(os.path.abspath(path)), Path(path).resolve()}
    return any(place.is_relative_to(root) for place in spelled for root in roots)


def require_outside(model: object, folder: Path, *, trusted: bool, source: str) -> None:
    """
    Refuse a model that is a folder inside the release that names it.

    Raises:
        InputError: if ``model`` is a path into ``folder``, unless ``trusted``.
    """
    if trusted or model in EMBEDDED or not is_inside(model, folder):
        return
    raise InputError(
        f"{source} reads the language model {brief(model)}, a folder inside the release itself, "
        "which may hold code; expected a model of your own or a public one. Leave the SAE "
        f"out, or give {FLAG} if you trust the release."
    )
