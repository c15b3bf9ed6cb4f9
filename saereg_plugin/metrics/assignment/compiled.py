"""Numba's compiler with the settings that the assignment solver's loops share."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def compiled(
    function: Callable[_Parameters, _Result],
) -> Callable[_Parameters, _Result]:
    """
    Compile a loop at its first call; it releases the interpreter's lock.

    The machine code is kept on disk beside the module, or in the user's cache where
    that is read-only. Where neither can be written to, every process compiles anew.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # numba found no folder for its cache; it looks for one when it decorates
        return numba.njit(nogil=True)(function)
