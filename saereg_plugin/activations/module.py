"""Activations of any module of torch on images, clips or tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from saereg_plugin.activations.extraction import (
    module_names,
    outputs_at,
    points_matching,
)
from saereg_plugin.activations.rows import (
    Layout,
    Rows,
    are_equally_many,
    grid_of,
    require_equal_rows,
    require_rows,
    select_rows,
)
from saereg_plugin.activations.source import InputSource, Pass
from saereg_plugin.checks import as_list
from saereg_plugin.errors import InputError
from saereg_plugin.sources.fingerprint import content_hash, fingerprint, sampled_hash
from saereg_plugin.sources.inputs import class_labels
from saereg_plugin.sources.modules.loaded import (
    LoadedModule,
    Prepared,
    moved,
    on_module,
)

Prepare = Callable[[Sequence[Any]], Any]
"""Makes the arguments of a module from a list of inputs: a tensor, a mapping, or ``Prepared``."""


class ModuleSource(InputSource):
    """
    Outputs of named submodules, each read by a forward hook in a pass that stops early.

    Example, a network of one's own::

        import saereg_plugin as sr

        source = sr.ModuleSource(network, images, point="layer3", rows="patches")
        sr.train(source, out="my-release", sae={"architecture": "regularized_topk", "d_sae": 1024})

    Args:
        module: the whole model; it is used in evaluation mode, on its own device.
        data: the inputs by number: a tensor [n, ...], a torch Dataset (of a tuple only the
            first is read), or images or clips of ``open_data``.
        point: name of a submodule, several, or a pattern such as ``encoder.layer.*``.
        rows: which rows of an output are activations; see ``activations.rows.Rows``.
        prepare: makes the module's arguments from a list of inputs; by default tensors are
            stacked.
        layout: class and register tokens of the outputs, and whether channels are last.
        labels: class of each input; by default ``labels`` or ``targets`` of the data.
        inputs_per_pass: inputs in one forward pass.
        seed: of the order in which inputs are trained on.
        name: of the model, for metadata; by default that of its class.
        data_name: of the data, for metadata.
        recorded: further fields of the metadata, plain JSON.
        known_as: what stands for the weights in the identity; by default their hash.

    Raises:
        InputError: for an unknown point or rows, an empty data set, or a module that does not
            take the inputs.
    """

    kind: ClassVar[str] = "module"

    def __init__(
        self,
        module: nn.Module,
        data: Any,
        *,
        point: str | Sequence[str],
        rows: Rows = "all",
        prepare: Prepare | None = None,
        layout: Layout = Layout(),
        labels: Sequence[int] | Tensor | None = None,
        inputs_per_pass: int = 16,
        seed: int = 0,
        name: str | None = None,
        data_name: str | None = None,
        recorded: Mapping[str, Any] | None = None,
        known_as: Any = None,
    ) -> None:
        require_rows(rows)
        self._module, self._data = module.eval(), data
        self._rows: Rows = rows
        self._prepare = _stack if prepare is None else prepare
        self._layout = layout
        self._per_pass = inputs_per_pass
        self.seed = seed
        self.name = type(module).__name__ if name is None else name
        self.data_name = _name_of(data) if data_name is None else data_name
        self._recorded = dict(recorded or {})
        self._known_as = known_as
        self._grids: dict[str, tuple[int, int] | None] = {}
        self.n_inputs = len(data)
        if self.n_inputs == 0:
            raise InputError(
                f"Data {self.data_name!r} is empty; expected one input or more."
            )
        self.labels = _labels_of(data, labels, self.data_name)
        names = getattr(data, "class_names", None) or getattr(data, "classes", ())
        self.class_names = tuple(names)
        self.groups = getattr(data, "groups", None)
        self._points = points_matching(as_list(point), module_names(module))
        self.device = _device_of(module)
        self._identity: dict[str, Any] | None = None
        first, share = self._read(torch.zeros(1, dtype=torch.long))
        self.points = {p: first.activations[p].shape[-1] for p in self._points}
        if are_equally_many(rows, share):
            self.rows_per_input = first.keep.shape[1]
        self.rows_per_pass = inputs_per_pass * first.keep.shape[1]

    def passes(self, numbers: Tensor) -> Iterator[Pass]:
        """Yield passes over these inputs (int64), in this order."""
        for chunk in numbers.split(self._per_pass):
            yield self._read(chunk)[0]

    def title(self, number: int) -> str:
        """Return a short name of an input, for people."""
        title = getattr(self._data, "title", None)
        return super().title(number) if title is None else title(number)

    def input(self, number: int) -> Any:
        """Return an input itself: an image, a clip, or a tensor."""
        return _input_of(self._data[number])

    def seen(self, number: int) -> Tensor | None:
        """Return an image as the module reads it, [channels, height, width]; None without any."""
        prepared = self._prepare([self.input(number)])
        given = prepared.kwargs if isinstance(prepared, Prepared) else prepared
        values = given.values() if isinstance(given, Mapping) else [given]
        for value in values:
            if isinstance(value, Tensor) and value.ndim == 4:
                return value[0]
        return None

    def identity(self) -> dict[str, Any]:
        """
        Return plain JSON of what decides the activations: weights, data, preprocessing.

        It is made once: after a change of weights or data, make another source. Of a data set of
        one's own, up to 64 inputs count, evenly spaced; of ``prepare`` its name.
        """
        if self._identity is None:
            weights = self._known_as
            self._identity = {
                "kind": self.kind,
                "model": fingerprint(self._module) if weights is None else weights,
                "data": _identity_of(self._data),
                "points": list(self.points),
                "rows": self._rows,
                "layout": list(self._layout),
                "prepare": getattr(self._prepare, "__qualname__", None)
                or type(self._prepare).__qualname__,
                "dtype": str(_dtype_of(self._module)),
                "seed": self.seed,
                "inputs_per_pass": self._per_pass,
                **self._recorded,
            }
        return self._identity

    def metadata(self, point: str) -> dict[str, Any]:
        """Return what the metadata of an SAE on this point says of its source."""
        return {
            "model_name": self.name,
            "model_class_name": type(self._module).__name__,
            "hook_name": point,
            "dataset_path": self.data_name,
            "activation_source": {
                "kind": self.kind,
                "model": self.name,
                "point": point,
                "rows": self._rows,
                "data": self.data_name,
                "digest": self.digest(),
                **self._grid(point),
                **self._recorded,
            },
        }

    @torch.no_grad()
    def _read(self, numbers: Tensor) -> tuple[Pass, Tensor | None]:
        """Return one pass over all of these inputs, and the part of each window that is sound."""
        items = [_input_of(self._data[int(number)]) for number in numbers]
        prepared = self._prepare(items)
        share = prepared.share if isinstance(prepared, Prepared) else None
        found = outputs_at(
            self._module, self._points, lambda: _call(self._module, prepared)
        )
        rows = {
            point: select_rows(
                found[point], self._rows, self._layout, share=share, point=point
            )
            for point in self._points
        }
        require_equal_rows({point: kept.shape[1] for point, (_, kept) in rows.items()})
        for point, (values, _) in rows.items():
            self._require_finite(values, numbers, point)
            self._grids[point] = grid_of(found[point], self._layout)
        activations = {point: values for point, (values, _) in rows.items()}
        return Pass(activations, rows[self._points[0]][1], numbers), share

    def _grid(self, point: str) -> dict[str, list[int]]:
        """Return height and width of the map whose positions are the rows, if it is one."""
        grid = self._grids[point]
        if grid is None or self._rows not in ("all", "patches"):
            return {}
        return {"grid": list(grid)}

    def _require_finite(self, values: Tensor, numbers: Tensor, point: str) -> None:
        bad = ~values.isfinite().flatten(1).all(1)
        if bool(bad.any()):
            number = int(numbers[int(bad.nonzero()[0])])
            raise InputError(
                f"Point {point!r} gives NaN or infinity for {self.title(number)!r} (input {number}). "
                "Leave the input out, or run the model in float32."
            )


def source_of_loaded(
    loaded: LoadedModule, data: Any, *, recorded: Mapping[str, Any], **options: Any
) -> ModuleSource:
    """Return the source of a module that was loaded by name; see ``ModuleSource``."""
    return ModuleSource(
        loaded.module,
        data,
        prepare=loaded.prepare,
        layout=layout_of(loaded),
        name=loaded.name,
        recorded={"preprocessing": loaded.preprocessing, **recorded},
        **options,
    )


def layout_of(loaded: LoadedModule) -> Layout:
    """Return how the outputs of a module by name are laid out."""
    return Layout(loaded.prefix_tokens, loaded.has_class_token, loaded.channels_last)


def _call(module: nn.Module, prepared: Any) -> object:
    """Run a module on prepared inputs, on its own device."""
    given = prepared.kwargs if isinstance(prepared, Prepared) else prepared
    if isinstance(given, Mapping):
        return module(**on_module(given, module))
    return module(moved(given, module))


def _stack(items: Sequence[Any]) -> Tensor:
    """Stack inputs that are tensors."""
    for item in items:
        if not isinstance(item, Tensor):
            raise InputError(
                f"An input is {type(item).__name__}; expected a tensor. Give prepare=, a function that "
                "makes the module's arguments from a list of inputs."
            )
    return torch.stack(list(items))


def _input_of(item: Any) -> Any:
    """Return the input in an item of a data set, which may be (input, label)."""
    return item[0] if isinstance(item, tuple | list) else item


def _device_of(module: nn.Module) -> torch.device:
    tensor = next(module.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _dtype_of(module: nn.Module) -> torch.dtype:
    tensor = next(module.parameters(), None)
    return torch.float32 if tensor is None else tensor.dtype


def _name_of(data: Any) -> str:
    # a tensor's name is None
    return str(getattr(data, "name", None) or type(data).__name__)


def _identity_of(data: Any) -> Any:
    """Return plain JSON that changes with the data."""
    identity = getattr(data, "identity", None)
    if identity is not None:
        return identity()
    if isinstance(data, Tensor):
        return content_hash(data)
    return [_name_of(data), sampled_hash(data, _input_of)]


def _labels_of(data: Any, given: Any, name: str) -> Tensor | None:
    """Return the classes given, or those that the data have."""
    if given is None:
        own = (getattr(data, attribute, None) for attribute in ("labels", "targets"))
        given = next((found for found in own if _are_classes(found)), None)
    return None if given is None else class_labels(given, len(data), name)


def _are_classes(found: Any) -> bool:
    """Return whether an attribute of a data set holds whole numbers, not paths or boxes."""
    if isinstance(found, Tensor | np.ndarray):
        return found.ndim == 1 and not torch.as_tensor(found).is_floating_point()
    return isinstance(found, list | tuple) and all(isinstance(n, int) for n in found)
