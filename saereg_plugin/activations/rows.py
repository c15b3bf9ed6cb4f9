"""Rows of an SAE's input, chosen from the output of a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from saereg_plugin.errors import InputError, suggest

Rows = Literal["all", "cls", "patches", "mean", "frames"]
"""
Rows of an output [inputs, tokens, d_in] or a map [inputs, channels, height, width].

``cls`` is the class token, ``patches`` every token after class and register tokens, or every
position of a map, ``mean`` their mean, ``frames`` those of a clip's own length, and ``all`` every
token.
"""


class Layout(NamedTuple):
    """How the tokens of a model's outputs are laid out."""

    prefix_tokens: int = 0
    """Class and register tokens before the patches."""
    has_class_token: bool = False
    """Whether the first of them is a class token."""


def require_rows(rows: str) -> None:
    """Refuse another word than those of ``Rows``."""
    if rows not in get_args(Rows):
        raise InputError(f"Unknown rows {rows!r}. {suggest(rows, get_args(Rows))}")


def tensor_of(output: Any, point: str) -> Tensor:
    """Return the activations in a module's output: itself, or the first tensor in it."""
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, Tensor):
        return output
    if isinstance(values, tuple | list) or isinstance(output, Mapping):
        for value in values:
            if isinstance(value, Tensor):
                return value
    raise InputError(
        f"Module {point!r} returns {type(output).__name__}; expected a tensor, or a tuple or "
        "mapping that holds one. Choose another point."
    )


def select_rows(
    output: Tensor,
    rows: Rows,
    layout: Layout,
    *,
    share: Tensor | None = None,
    point: str = "",
) -> tuple[Tensor, Tensor]:
    """
    Return the chosen rows of an output, [inputs, rows, d_in], and which of them count.

    Args:
        output: [inputs, d_in], [inputs, tokens, d_in], or [inputs, d_in, height, width].
        rows: see ``Rows``.
        layout: of the tokens.
        share: part of each clip's window that is sound, [inputs]; needed for ``frames``.
        point: of the module, for errors.

    Raises:
        InputError: if the output has another shape, or no such rows.
    """
    tokens = _tokens(output, rows, layout, point)
    if rows == "mean":
        tokens = tokens.mean(1, keepdim=True)
    keep = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if rows == "frames":
        if share is None:
            raise InputError(
                f"rows='frames' of point {point!r}: the inputs have no length. Expected clips of "
                "audio; for images choose 'patches', 'cls' or 'mean'."
            )
        n = tokens.shape[1]
        last = (share.to(tokens.device) * n).ceil().clamp(1, n)
        keep = torch.arange(n, device=tokens.device) < last[:, None]
    return tokens, keep


def _tokens(output: Tensor, rows: Rows, layout: Layout, point: str) -> Tensor:
    """Return the tokens that ``rows`` names, [inputs, tokens, d_in]."""
    if output.ndim == 4 and rows not in ("cls", "frames"):
        return output.flatten(2).transpose(1, 2)
    if output.ndim == 2 and rows in ("all", "mean"):
        return output[:, None]
    if output.ndim != 3:
        raise InputError(
            f"rows={rows!r} of point {point!r}: its output has shape {tuple(output.shape)}; expected "
            "[inputs, tokens, d_in] for these rows. "
            "Choose other rows, or another point."
        )
    if rows == "cls" and not layout.has_class_token:
        raise InputError(
            f"rows='cls' of point {point!r}: the model has no class token. Choose 'patches' or 'mean'."
        )
    if rows == "cls":
        return output[:, :1]
    if rows in ("patches", "mean"):
        return output[:, layout.prefix_tokens :]
    return output
