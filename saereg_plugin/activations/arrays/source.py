"""Activations in arrays: numpy, torch, and folders of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from saereg_plugin.activations.arrays.files import (
    LABELS,
    parts_of_files,
    read_labels,
)
from saereg_plugin.activations.arrays.parts import (
    Array,
    ArrayParts,
    Part,
    parts_of_arrays,
)
from saereg_plugin.activations.config import SourceFacts
from saereg_plugin.activations.passes import Pass
from saereg_plugin.activations.source import InputSource
from saereg_plugin.checks import (
    MAX_SEED,
    absolute_path,
    as_list,
    checked_dataclass,
    require_choice,
)
from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs import Split

_ROWS_PER_PASS = 4096
_BLOCK_BYTES = 1 << 20
"""Neighbouring inputs of a file that are read together in the training order."""
_FEWEST_BLOCKS = 1024


@checked_dataclass
class ArraysConfig:
    """Arrays of activations in files."""

    kind: Literal["arrays"] = "arrays"
    path: Annotated[str, AfterValidator(absolute_path)]
    """``.npy``, ``.safetensors`` or ``.pt`` file, or a folder of such files of equal width. An
    array is [inputs, d_in], or [inputs, rows, d_in]."""
    point: str | Sequence[str] | None = None
    """Names or patterns of the arrays in the files, or the name to give an array that has none;
    by default all arrays."""
    labels: Annotated[str, AfterValidator(absolute_path)] | None = None
    """``.npy`` file with a class for each input; by default ``labels.npy`` in the folder."""
    heldout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the last inputs that is kept for evaluation."""
    ordered: bool = False
    """Whether the rows of an input follow one another in time. Inputs are then read in the
    order of the files."""
    model: str = "arrays"
    """Name of the model that the arrays come from, for the metadata of SAEs."""
    inputs_per_pass: Annotated[int, Field(ge=1)] | None = None
    """Inputs that are read together; by default as many as have about 4,096 rows."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    """Seed of the order in which inputs are trained on."""


class ArraySource(InputSource):
    """
    Activations in arrays, of which a pass at a time is read.

    An array [inputs, d_in] has one row for each input, an array [inputs, rows, d_in] several.
    Files are mapped into memory. The training order shuffles them in blocks of neighbours,
    so that the disk reads sequentially.

    Args:
        arrays: a numpy array, a torch tensor, a mapping from points to arrays, or the path of
            a ``.npy``, ``.safetensors`` or ``.pt`` file or of a folder of such files.
        point: names or patterns of the arrays to read, or the name of an array that has none.
        labels: classes of all inputs, or their ``.npy`` file; by default ``labels.npy`` in a
            folder.
        class_names: names of the classes, by label.
        ordered: whether the rows of an input follow one another in time.
        heldout: share of the last inputs that the split "heldout" has, and "train" has not.
        split: "train", "heldout" or "all".
        inputs_per_pass: by default as many as have about 4,096 rows.
        device: where activations are returned.
        seed: of the training order.
        model: name of the model that the arrays come from, for metadata.

    Raises:
        InputError: naming the file or array that cannot be used, or a split without inputs.
    """

    kind: ClassVar[str] = "arrays"

    def __init__(
        self,
        arrays: Array | Mapping[str, Array] | str | Path,
        *,
        point: str | Sequence[str] | None = None,
        labels: Any = None,
        class_names: Sequence[str] = (),
        ordered: bool = False,
        heldout: float = 0.1,
        split: str = "train",
        inputs_per_pass: int | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
        model: str = "arrays",
    ) -> None:
        require_choice("split", split, get_args(Split))
        path = Path(arrays).absolute() if isinstance(arrays, str | Path) else None
        self._parts = ArrayParts(_parts_of(arrays, point))
        self._first, self.n_inputs = _bounds(self._parts.inputs, heldout, split)
        rows = self._parts.rows
        self.points = self._parts.points
        self.device = torch.device(device)
        self.ordered, self.rows_per_input, self.seed = ordered, rows, seed
        self.inputs_per_pass = inputs_per_pass or max(1, _ROWS_PER_PASS // rows)
        self.rows_per_pass = self.inputs_per_pass * rows
        self.labels = self._read_labels(labels, path)
        self.class_names = tuple(class_names)
        self._cut = {"split": split, "heldout": heldout}
        self._named = (model, "arrays in memory" if path is None else str(path))
        self._config = {
            "path": None if path is None else str(path),
            "point": point if isinstance(point, str | None) else list(point),
            "labels": str(labels) if isinstance(labels, str | Path) else None,
            "heldout": heldout,
            "ordered": ordered,
            "model": model,
            "seed": seed,
        }
        self._identity: dict[str, Any] | None = None

    def passes(self, numbers: Tensor) -> Iterator[Pass]:
        """
        Yield passes over these inputs (int64), in this order.

        Raises:
            InputError: naming file and input of a NaN or an infinity.
        """
        for some in numbers.split(self.inputs_per_pass):
            found = self._parts.read(some + self._first)
            activations = {p: array.to(self.device) for p, array in found.items()}
            keep = torch.ones(len(some), self._parts.rows, dtype=torch.bool)
            yield Pass(activations, keep.to(self.device), some)

    def order(self) -> Tensor:
        """Return the training order: blocks of neighbours shuffled, or 0, 1, ... if ordered."""
        if self.ordered:
            return torch.arange(self.n_inputs)
        blocks = torch.arange(self.n_inputs).split(self._block())
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(blocks), generator=generator)
        return torch.cat([blocks[number] for number in order.tolist()])

    def identity(self) -> dict[str, Any]:
        """Return names, sizes and times of the files, or a hash of arrays, and the split."""
        if self._identity is None:
            self._identity = {
                "kind": self.kind,
                "arrays": self._parts.identity(),
                "points": dict(self.points),
                "rows": self._parts.rows,
                "ordered": self.ordered,
                **self._cut,
            }
        return self._identity

    def metadata(self, point: str) -> dict[str, Any]:
        """
        Return the fields that name the arrays in an SAE's metadata.

        ``config`` opens files again; arrays in memory have none.
        """
        model, data = self._named
        config = {k: v for k, v in self._config.items() if v is not None}
        return {
            "model_name": model,
            "hook_name": point,
            "dataset_path": data,
            "activation_source": {
                "kind": self.kind,
                "model": model,
                "point": point,
                "data": data,
                "digest": self.digest(),
                **self._cut,
                **(
                    {"config": {"kind": self.kind, **config}}
                    if "path" in config
                    else {}
                ),
            },
        }

    def _block(self) -> int:
        """Return how many neighbours stay together in the training order."""
        if not self._parts.in_files:
            return 1
        input_bytes = self._parts.rows * self._parts.row_bytes
        many = min(_BLOCK_BYTES // input_bytes, self.n_inputs // _FEWEST_BLOCKS)
        return max(1, many)

    def _read_labels(self, labels: Any, path: Path | None) -> Tensor | None:
        """Return the labels of this split's inputs, or None if there are none."""
        if labels is None and path is not None and (path / LABELS).is_file():
            labels = path / LABELS
        if labels is None:
            return None
        found = read_labels(labels, self._parts.inputs)
        return found[self._first : self._first + self.n_inputs]


def describe_arrays(config: ArraysConfig, split: Split = "train") -> SourceFacts:
    """
    Return the facts of arrays; only headers of files are read.

    Raises:
        InputError: as ``ArraySource``.
    """
    source = open_arrays(config, split)
    rows = source.rows_per_input or 1
    return SourceFacts(
        model=config.model,
        data=config.path,
        points=source.points,
        n_inputs=source.n_inputs,
        rows_per_input=rows,
        ordered=config.ordered,
        most_rows=source.n_inputs * rows,
    )


def open_arrays(
    config: ArraysConfig,
    split: Split = "train",
    device: str | torch.device = "cpu",
) -> ArraySource:
    """
    Open the arrays of a configuration; only headers of files are read.

    Raises:
        InputError: as ``ArraySource``.
    """
    return ArraySource(
        config.path,
        point=config.point,
        labels=config.labels,
        ordered=config.ordered,
        heldout=config.heldout,
        split=split,
        inputs_per_pass=config.inputs_per_pass,
        device=device,
        seed=config.seed,
        model=config.model,
    )


def _parts_of(
    arrays: Array | Mapping[str, Array] | str | Path,
    point: str | Sequence[str] | None,
) -> list[Part]:
    """Return the parts of arrays in memory, or of files."""
    points = None if point is None else as_list(point)
    if isinstance(arrays, str | Path):
        return parts_of_files(Path(arrays), points)
    return parts_of_arrays(arrays, points)


def _bounds(inputs: int, heldout: float, split: str) -> tuple[int, int]:
    """Return the first input of a split, and the number of its inputs."""
    if not 0 <= heldout < 1:
        raise InputError(f"heldout={heldout!r}; expected a share from 0 to below 1.")
    last = round(inputs * heldout)
    first, count = {
        "train": (0, inputs - last),
        "heldout": (inputs - last, last),
        "all": (0, inputs),
    }[split]
    if count == 0:
        raise InputError(
            f"The split {split!r} has none of {inputs:,} inputs with heldout={heldout}; expected at least "
            "one. Change heldout, or give more inputs."
        )
    return first, count
