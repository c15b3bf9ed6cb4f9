"""Forward hooks that change what a module reads or returns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from saereg_plugin.errors import InputError, brief, suggest

Change = Callable[[Tensor], Tensor]
"""Takes a tensor and returns its replacement."""


def submodule(model: nn.Module, point: str) -> nn.Module:
    """
    Return a named submodule; an empty name is the model itself.

    Raises:
        InputError: for an unknown name, with the nearest one.
    """
    modules = dict(model.named_modules())
    if point not in modules:
        raise InputError(
            f"A {type(model).__name__} has no module {point!r}. "
            f"{suggest(point, [name for name in modules if name])}"
        )
    return modules[point]


@contextmanager
def change_output(module: nn.Module, change: Change) -> Generator[None]:
    """
    Change a module's output while the context lasts, also if an error ends it.

    Of a tuple, a list or a mapping (``BaseModelOutput`` is one) the first tensor is changed.
    """

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        return _with_first_tensor(output, change)

    with module.register_forward_hook(hook):
        yield


@contextmanager
def change_input(
    module: nn.Module, change: Change, *, keyword: str = "hidden_states"
) -> Generator[None]:
    """
    Change a module's first input while the context lasts, also if an error ends it.

    ``keyword``: name of the input where it is given by name.
    """

    def hook(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, keyword: change(kwargs[keyword])}

    with module.register_forward_pre_hook(hook, with_kwargs=True):
        yield


def _with_first_tensor(output: Any, change: Change) -> Any:
    """Return a module's output with its first tensor changed; the same object if it stays."""
    if isinstance(output, Tensor):
        return change(output)
    place = _first_place(output)
    changed = change(output[place])
    if changed is output[place]:
        return output
    if isinstance(output, tuple):
        values = list(output)
        values[place] = changed
        make: Any = getattr(output, "_make", tuple)
        return make(values)
    found = copy.copy(output)
    found[place] = changed
    return found


def _first_place(output: Any) -> Any:
    """Return the index or the key of an output's first tensor."""
    if isinstance(output, (tuple, list)):
        places = enumerate(output)
    elif hasattr(output, "items"):
        places = output.items()
    else:
        places = iter(())
    for place, value in places:
        if isinstance(value, Tensor):
            return place
    raise InputError(
        f"A module returned {brief(output)}, which holds no tensor at its top; expected a "
        "tensor, or a tuple, a list or a mapping with one. Choose a module inside it."
    )
