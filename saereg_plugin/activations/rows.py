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
token. The mean of a clip's tokens leaves out padding.
"""


class Layout(NamedTuple):
    """How tokens and maps of a model's outputs are laid out."""

    prefix_tokens: int = 0
    """Class and register tokens before the patches."""
    has_class_token: bool = False
    """Whether the first of them is a class token."""
    channels_last: bool = False
    """Whether maps are [inputs, height, width, channels], as those of timm's Swin."""


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
        output: [inputs, d_in], [inputs, tokens, d_in], or a map as ``layout`` says.
        rows: see ``Rows``.
        layout: of tokens and maps.
        share: part of each clip's window that is sound, [inputs]; needed for ``frames``.
        point: of the module, for errors.

    Raises:
        InputError: if the output has another shape, or no such rows.
    """
    tokens = _tokens(output, rows, layout, point)
    keep = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if rows == "frames" and share is None:
        raise InputError(
            f"rows='frames' of point {point!r}: the inputs have no length. Expected clips of "
            "audio; for images choose 'patches', 'cls' or 'mean'."
        )
    # only tokens follow the clip in time
    if share is not None and rows in ("frames", "mean") and output.ndim < 4:
        keep = _within(share.to(tokens.device), tokens.shape[1])
    if rows != "mean":
        return tokens, keep
    mean = tokens.mean(1, keepdim=True) if share is None else _mean(tokens, keep)
    return mean, torch.ones_like(keep[:, :1])


def are_equally_many(rows: Rows, share: Tensor | None) -> bool:
    """Return whether all inputs have equally many rows, which clips have in part."""
    return share is None or rows in ("cls", "mean")


def require_equal_rows(counts: Mapping[str, int]) -> None:
    """
    Refuse points that give different numbers of rows of an input.

    Args:
        counts: rows of an input by point.
    """
    (first, rows), *others = counts.items()
    for point, count in others:
        if count != rows:
            raise InputError(
                f"Points {first!r} and {point!r} give {rows} and {count} rows of an input; expected "
                "equally many, as they share their batches. Choose rows='mean', or train them one "
                "after the other."
            )


def grid_of(output: Tensor, layout: Layout) -> tuple[int, int] | None:
    """Return height and width of a map; None for another output."""
    if output.ndim != 4:
        return None
    height, width = output.shape[1:3] if layout.channels_last else output.shape[2:]
    return height, width


def _within(share: Tensor, n: int) -> Tensor:
    """Return which of n tokens are within each clip's own length, bool [inputs, n]."""
    last = (share * n).ceil().clamp(1, n)
    return torch.arange(n, device=share.device) < last[:, None]


def _mean(tokens: Tensor, keep: Tensor) -> Tensor:
    """Return the mean of each input's kept tokens, [inputs, 1, d_in]."""
    counted = tokens.masked_fill(~keep[..., None], 0)
    # half precision overflows
    exact = torch.promote_types(tokens.dtype, torch.float32)
    total = counted.sum(1, keepdim=True, dtype=exact)
    return (total / keep.sum(1)[:, None, None]).to(tokens.dtype)


def _tokens(output: Tensor, rows: Rows, layout: Layout, point: str) -> Tensor:
    """Return the tokens that ``rows`` names, [inputs, tokens, d_in]."""
    if output.ndim == 4 and rows not in ("cls", "frames"):
        if layout.channels_last:
            return output.flatten(1, 2)
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
