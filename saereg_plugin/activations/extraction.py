"""Outputs of named modules in one forward pass that stops early."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from saereg_plugin.activations.rows import tensor_of
from saereg_plugin.errors import InputError, suggest


class _Stop(BaseException):
    """Ends a forward pass once every point was reached; modules do not catch it."""


def points_matching(
    patterns: Sequence[str], known: Iterable[str], *, where: str = ""
) -> list[str]:
    """
    Return the points that names or patterns such as ``encoder.layer.*`` choose, each once.

    ``where``, such as "in file 'a.pt'", is added to the message.

    Raises:
        InputError: for a name or pattern that chooses none.
    """
    names = list(known)
    found: dict[str, None] = {}
    for pattern in patterns:
        chosen = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        if not chosen:
            place = f" {where}" if where else ""
            raise InputError(f"No point {pattern!r}{place}. {suggest(pattern, names)}")
        found |= dict.fromkeys(chosen)
    return list(found)


def module_names(module: nn.Module) -> list[str]:
    """Return the names of a module's submodules."""
    return [name for name, _ in module.named_modules() if name]


def outputs_at(
    module: nn.Module, points: Sequence[str], run: Callable[[], object]
) -> dict[str, Tensor]:
    """
    Return the output of each point in one forward pass, which ends at the last of them.

    Of a module that is called several times, it is the first output.

    Args:
        module: the whole model.
        points: names of submodules.
        run: calls the model.

    Raises:
        InputError: if a point is never run, or returns no tensor.
    """
    found: dict[str, Tensor] = {}
    with _recording(module, points, found):
        try:
            run()
        except _Stop:
            return found
    missing = [point for point in points if point not in found]
    raise InputError(
        f"Point {missing[0]!r} is never run in a forward pass of {type(module).__name__}. Choose "
        "another."
    )


@contextmanager
def _recording(
    module: nn.Module, points: Sequence[str], found: dict[str, Tensor]
) -> Iterator[None]:
    """
    Fill ``found`` inside the block; stop the forward pass once all points are there.

    Passes of the same module in other threads are left alone.
    """
    thread = threading.get_ident()

    def recorder(point: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if threading.get_ident() != thread or point in found:
                return
            values = tensor_of(output, point)
            if len(found) + 1 == len(points):
                found[point] = values
                raise _Stop
            # a module that works in place may overwrite the output later in the pass
            found[point] = values.clone()

        return record

    modules: Mapping[str, nn.Module] = dict(module.named_modules())
    handles = [modules[p].register_forward_hook(recorder(p)) for p in points]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
