"""Task vectors: weights of a fine-tuned model minus those of its base."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saereg_plugin.checks import stays_inside
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path, read_json, recover, write_json
from saereg_plugin.sources import models

RECORD = "injection.json"
"""File in a written model folder that says what was added to which layers."""
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_LAYER = re.compile(r"^(|.*\.)(layers|h|blocks|block|layer)\.(\d+)\.")
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")
_EXPECTED = (
    "expected a Hugging Face model folder with safetensors weights, as `save_pretrained` writes "
    "it, or an embedded model."
)


@dataclass(frozen=True)
class Weights:
    """
    The weights of a model folder, read tensor by tensor.

    Attributes:
        folder: the model folder.
        files: file of each tensor, by the tensor's name.
    """

    folder: Path
    files: Mapping[str, str]

    @classmethod
    def open(cls, name: str) -> Weights:
        """
        Open a model folder or an embedded model; reads no weights.

        Raises:
            InputError: if there is no such folder, or none with safetensors weights.
        """
        folder = Path(name)
        if name in models.EMBEDDED:
            found = models.ensure(name)
            assert found is not None
            folder = found
        if not (folder / "config.json").is_file():
            raise InputError(f"{name!r} is no model folder; {_EXPECTED}")
        if (folder / _INDEX).is_file():
            files = _indexed(folder)
        elif (folder / _SINGLE).is_file():
            files = dict.fromkeys(_names(folder / _SINGLE), _SINGLE)
        else:
            raise InputError(f"Model folder {name!r} has no safetensors; {_EXPECTED}")
        return cls(folder, files)

    def read(self, name: str) -> Tensor:
        """Return a tensor as it is stored."""
        with safe_open(self.folder / self.files[name], framework="pt") as file:
            return file.get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        with safe_open(self.folder / self.files[name], framework="pt") as file:
            return tuple(file.get_slice(name).get_shape())

    @cached_property
    def layers(self) -> dict[int, list[str]]:
        """
        Names of the tensors in each layer, by number.

        Of several stacks of layers, such as a vision tower next to the language model, the one
        with the most weights.

        Raises:
            InputError: if no tensor's name has the number of a layer.
        """
        stacks: dict[str, dict[int, list[str]]] = {}
        for name in sorted(self.files):
            match = _LAYER.match(name)
            if match is not None:
                stack = stacks.setdefault(f"{match[1]}{match[2]}", {})
                stack.setdefault(int(match[3]), []).append(name)
        if not stacks:
            raise InputError(
                f"No tensor of model folder {str(self.folder)!r} is named as part of a layer; "
                "expected names such as 'model.layers.3.mlp.up_proj.weight'."
            )
        largest = max(stacks, key=lambda stack: self._size(stacks[stack]))
        return dict(sorted(stacks[largest].items()))

    def _size(self, layers: Mapping[int, Collection[str]]) -> int:
        names = [name for of_layer in layers.values() for name in of_layer]
        return sum(torch.Size(self.shape(name)).numel() for name in names)


def _indexed(folder: Path) -> dict[str, str]:
    path = folder / _INDEX
    found = read_json(path, remedy=f"For the index of a model, {_EXPECTED}")
    files = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(files, dict) or not all(
        isinstance(file, str) and stays_inside(file) for file in files.values()
    ):
        raise InputError(f"File {str(path)!r} has no 'weight_map'; {_EXPECTED}")
    for file in sorted(set(files.values())):
        _names(folder / file)
    return files


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"File {str(path)!r} cannot be read ({error}); {_EXPECTED}"
        ) from error


@dataclass(frozen=True)
class TaskVector:
    """The difference of two models, layer by layer."""

    base: Weights
    finetuned: Weights

    @classmethod
    def open(cls, base: str, finetuned: str) -> TaskVector:
        """
        Open two model folders; reads no weights.

        Raises:
            InputError: if a folder is none, or their layers differ in names or shapes.
        """
        task = cls(Weights.open(base), Weights.open(finetuned))
        own, its = (
            {name for names in weights.layers.values() for name in names}
            for weights in (task.base, task.finetuned)
        )
        if own != its:
            raise InputError(
                f"The layers of {base!r} and {finetuned!r} hold different tensors, such as "
                f"{min(own ^ its)!r}; expected two models of one architecture."
            )
        for name in sorted(own):
            shapes = task.base.shape(name), task.finetuned.shape(name)
            if shapes[0] != shapes[1]:
                raise InputError(
                    f"Tensor {name!r} has shape {shapes[0]} in {base!r} and {shapes[1]} in "
                    f"{finetuned!r}; expected two models of one architecture."
                )
        return task

    @property
    def layers(self) -> dict[int, list[str]]:
        """Names of the tensors in each layer, by number."""
        return self.base.layers

    def difference(self, name: str) -> Tensor:
        """Return the fine-tuned tensor minus the base's, float64."""
        return self.finetuned.read(name).double() - self.base.read(name).double()

    def require_layers(self, layers: Collection[int]) -> None:
        """Refuse numbers of layers that the models do not have."""
        missing = sorted(set(layers) - set(self.layers))
        if missing:
            raise InputError(
                f"The models have no layer {missing[0]}; expected {min(self.layers)} to "
                f"{max(self.layers)}."
            )

    def require_free(self, out: Path) -> None:
        """Refuse a model folder that exists."""
        if out.exists():
            raise InputError(
                f"Model folder {str(out)!r} exists; expected a new one. Choose another name."
            )

    def inject(self, out: Path, *, alpha: float, layers: Collection[int]) -> Path:
        """
        Write the base with ``alpha`` times the task vector in some layers.

        Everything else is the base's: embeddings, final norm, other layers, data types,
        configuration and tokenizer. Sums are taken in float64 and rounded to the base's type;
        with ``alpha`` 0 the weights stay as they are, bit for bit.

        Returns:
            the folder, which appears whole or not at all.

        Raises:
            InputError: for an unknown layer, an alpha that is not finite, or if ``out`` exists.
        """
        self.require_layers(layers)
        self.require_free(out)
        if not math.isfinite(alpha):
            raise InputError(
                f"alpha is {alpha}; expected a finite number, such as 0.5."
            )
        changed = {
            name for layer in layers if alpha != 0 for name in self.layers[layer]
        }
        recover(out)
        with atomic_path(out) as folder:
            folder.mkdir()
            for path in _further_files(self.base.folder):
                shutil.copyfile(path, folder / path.name)
            for file in sorted(set(self.base.files.values())):
                self._write_file(folder, file, changed, alpha)
            write_json(
                folder / RECORD,
                {
                    "base": str(self.base.folder),
                    "finetuned": str(self.finetuned.folder),
                    "alpha": alpha,
                    "layers": sorted(layers),
                },
            )
        return out

    def _write_file(
        self, folder: Path, file: str, changed: Collection[str], alpha: float
    ) -> None:
        tensors: dict[str, Tensor] = {}
        with safe_open(self.base.folder / file, framework="pt") as stored:
            metadata = stored.metadata() or {"format": "pt"}
            for name in stored.keys():  # noqa: SIM118
                tensor = stored.get_tensor(name)
                if name in changed:
                    summed = tensor.double() + alpha * self.difference(name)
                    tensor = summed.to(tensor.dtype)
                tensors[name] = tensor
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / file, metadata=metadata)


def _further_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a model folder that are no weights."""
    for path in sorted(folder.iterdir()):
        weights = path.suffix in (".safetensors", *_OTHER_WEIGHTS)
        if path.is_file() and not weights and not path.name.startswith("."):
            yield path


@dataclass(frozen=True)
class LayerNorms:
    """Sizes of one layer's weights and of its task vector, as Frobenius norms."""

    layer: int
    parameters: int
    base: float
    task: float

    @property
    def ratio(self) -> float | None:
        """Norm of the task vector over the base's; None for a layer of zeros."""
        return self.task / self.base if self.base > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "layer": self.layer,
            "parameters": self.parameters,
            "base_norm": self.base,
            "task_norm": self.task,
            "ratio": self.ratio,
        }


def layer_norms(task: TaskVector) -> list[LayerNorms]:
    """Return the norms of every layer, over all of its weights."""
    found: list[LayerNorms] = []
    for layer, names in task.layers.items():
        squares = [
            (
                float(task.base.read(name).double().square().sum()),
                float(task.difference(name).square().sum()),
            )
            for name in names
        ]
        base, tau = (sum(one) ** 0.5 for one in zip(*squares, strict=True))
        count = sum(torch.Size(task.base.shape(name)).numel() for name in names)
        found.append(LayerNorms(layer, count, base, tau))
    return found


_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


def layer_numbers(
    words: Iterable[str], known: Collection[int], *, best: int | None = None
) -> list[int]:
    """
    Return the layers that words name: numbers, ranges, ``all`` or ``best``.

    Args:
        words: such as ``["3", "5-7"]``.
        known: numbers of the model's layers, which ``all`` stands for.
        best: what ``best`` stands for.

    Raises:
        InputError: for another word, or for ``best`` without a best layer.

    >>> layer_numbers(["3", "5-7", "best"], range(12), best=1)
    [1, 3, 5, 6, 7]
    """
    found: set[int] = set()
    for word in words:
        match = _RANGE.fullmatch(word)
        if word == "all":
            found |= set(known)
        elif word == "best":
            if best is None:
                raise InputError(
                    "No layer was scored, so there is no best one; expected numbers of layers, "
                    "such as 4-7, or 'all'."
                )
            found.add(best)
        elif match is not None:
            found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
        else:
            raise InputError(
                f"Layers {word!r}; expected a number, a range such as 4-7, 'all' or 'best'."
            )
    return sorted(found)
