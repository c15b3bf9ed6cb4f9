"""The context in which a module's output is edited."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from saereg_plugin.activations.edits.changes import Edit
from saereg_plugin.activations.hooks import change_output, submodule
from saereg_plugin.checks import require_choice
from saereg_plugin.errors import InputError

Calls = Literal["all", "prompt", "steps"]
"""
Calls of the module that are edited.

- ``all``: every call.
- ``prompt``: calls with more than one row of an input.
- ``steps``: calls with a single row, as of each new token under generation with a cache.
"""

Positions = Sequence[int] | slice | Tensor | None
"""
Rows of each input that are edited: positions or frames of a call, from 0 or, if negative, from
its end; or a bool mask (rows,) or (inputs, rows). None is all.
"""


@contextmanager
def edit(
    model: nn.Module,
    point: str,
    change: Edit,
    *,
    positions: Positions = None,
    calls: Calls = "all",
) -> Generator[None]:
    """
    Edit the output of a model's module while the context lasts.

    The hook is removed at the end, also after an error. At strength 0 the module's own output
    is returned, the same object. Rows that are not chosen stay bit for bit.

    Example::

        with sr.edit(model, "model.encoder.layers.3", sr.zero_latents(sae, [7])):
            model.generate(**inputs)

    Args:
        model: any module; language, vision and audio models alike.
        point: name of the submodule, as in ``model.named_modules()``.
        change: what is added.
        positions: rows of each call; all by default.
        calls: which calls of the module are edited.

    Raises:
        InputError: for an unknown point; when the module is called, for an output of another
            width, or positions that a call does not have.
    """
    require_choice("calls", calls, get_args(Calls))
    module = submodule(model, point)

    def changed(output: Tensor) -> Tensor:
        return edited(output, change, positions=positions, calls=calls)

    with change_output(module, changed):
        yield


def edited(
    output: Tensor, change: Edit, *, positions: Positions = None, calls: Calls = "all"
) -> Tensor:
    """
    Return a module's output, edited; the same object if nothing changes.

    ``output`` is (inputs, d_in), (inputs, rows, d_in), or a map (inputs, d_in, height, width)
    or (inputs, height, width, d_in), whose rows are its places, line by line.

    Raises:
        InputError: for an output of another width, or positions that are not there.
    """
    if change.changes_nothing:
        return output
    x = _as_rows(output, change.d_in)
    single = x.shape[1] == 1
    if calls == ("prompt" if single else "steps"):
        return output
    shift = change.shift(x).to(x)
    mask = _mask(positions, x)
    moved = x + shift if mask is None else torch.where(mask[..., None], x + shift, x)
    if _is_map(output, change.d_in):
        return moved.mT.reshape(output.shape)
    return moved.reshape(output.shape)


def _as_rows(output: Tensor, d_in: int) -> Tensor:
    """Return a module's output as rows (inputs, rows, d_in)."""
    if _is_map(output, d_in):
        return output.flatten(2).mT
    if output.ndim not in (2, 3, 4) or output.shape[-1] != d_in:
        raise InputError(
            f"The module's output has shape {tuple(output.shape)}, and the edit is of width "
            f"{d_in}; expected (inputs, {d_in}), (inputs, rows, {d_in}) or (inputs, {d_in}, "
            "height, width). Choose the module that the SAE or the direction comes from."
        )
    return output.reshape(len(output), -1, d_in)


def _is_map(output: Tensor, d_in: int) -> bool:
    """Return whether an output is a feature map (inputs, d_in, height, width)."""
    return output.ndim == 4 and output.shape[1] == d_in


def _mask(positions: Positions, x: Tensor) -> Tensor | None:
    """Return the chosen rows of x (inputs, rows, d_in) as a bool mask, None for all."""
    if positions is None:
        return None
    if isinstance(positions, Tensor) and positions.dtype == torch.bool:
        if positions.shape not in (x.shape[:2], x.shape[1:2]):
            raise InputError(
                f"The mask has shape {tuple(positions.shape)}; expected {tuple(x.shape[1:2])} "
                f"or {tuple(x.shape[:2])}, the rows of the module's output."
            )
        return positions.to(x.device)
    mask = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
    if isinstance(positions, slice):
        mask[positions] = True
        return mask
    chosen = [int(position) for position in positions]
    wrong = [one for one in chosen if not -len(mask) <= one < len(mask)]
    if wrong:
        raise InputError(
            f"Positions {wrong[:5]} are not in a call of {len(mask)} rows. Under generation a "
            "step is a call of one row: choose the prompt alone with calls='prompt'."
        )
    mask[chosen] = True
    return mask
