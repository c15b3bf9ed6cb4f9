"""
Reader of latent examples: the parquet table next to an SAE's result.

The table has a row per latent, in the order of the ids. Columns:

``latent``, ``active``
    id, and the number of tokens on which the latent fires (int64).
``density``, ``mean_activation``, ``max_activation``
    share of the tokens; mean and maximum over the active tokens (float64; null if there is none).
``histogram_edges``, ``histogram_counts``
    bins of equal width from 0 to the maximum (lists; edge i and i + 1 bound count i).
``top_tokens``, ``top_logits``, ``bottom_tokens``, ``bottom_logits``
    tokens whose logits the latent raises or lowers most (lists, extreme first; empty where the
    hook does not write to the residual stream).
``examples``
    list of structs ``band``, ``activation``, ``peak``, ``tokens``, ``values``, ``context``,
    ``position``: the fields of ``Example``.

The schema's metadata hold one JSON object under ``saereg``: ``release``, ``sae_id``, ``group``,
``seed`` and the settings: ``kind`` of the examples ("text", "images", "clips" or "inputs"),
``model``, ``hook_name``, ``corpus``, ``tokens`` (or rows), ``context_size``, ``bands`` and others.

Of other kinds than text, an example is an input: ``context`` is its number, ``tokens`` is empty,
``values`` are its rows' activations, and ``grid`` in the metadata is the shape of patches. A
second table next to the result has each input that is shown once: ``input`` (its number),
``title``, ``label``, ``rows``, ``seconds`` of a clip, ``picture`` (PNG or JPEG).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.results.reading import SUFFIX, read_result, result_files
from eval_recipes.results.sidecar import SideTable
from saereg_plugin.errors import InputError, suggest

EVAL = "examples"
TABLE_SUFFIX = "_examples.parquet"
TOP = "top"
"""Band of the contexts or inputs with the largest activations."""
LOWEST = "lowest"
"""Band of the inputs with the lowest activations above 0; text has none."""
TEXT = "text"
"""Kind of examples of a language model."""
INPUTS_SUFFIX = "_inputs.parquet"

SCALARS = ("latent", "active", "density", "mean_activation", "max_activation")
_LISTS = (
    "histogram_edges",
    "histogram_counts",
    "top_tokens",
    "top_logits",
    "bottom_tokens",
    "bottom_logits",
    "examples",
)

EXAMPLES = SideTable(
    "Table of examples", EVAL, "latents", TABLE_SUFFIX, (*SCALARS, *_LISTS)
)
"""One row per latent."""
INPUTS = SideTable(
    "Table of inputs",
    EVAL,
    "inputs",
    INPUTS_SUFFIX,
    ("input", "title", "label", "rows", "seconds", "picture"),
)
"""One row per input that is an example."""


@dataclass(frozen=True)
class Input:
    """An image, a clip or an item of arrays."""

    input: int
    """Its number in the held-out data, from 0."""
    title: str
    label: str | None
    """Name of its class."""
    rows: int
    seconds: float | None
    """Of a clip, as far as the model hears it."""
    picture: bytes | None
    """PNG or JPEG of an image as the model sees it, at most 128 pixels wide and high."""


@dataclass(frozen=True)
class Example:
    """A place at which a latent fires: the text around it, or the input."""

    band: str
    """"top", a quantile band such as "75-100 %", or "lowest"."""
    activation: float
    """At the peak."""
    peak: int
    """Index of the peak in ``values``: what the example was chosen for."""
    tokens: list[str]
    """The context around the peak; empty for other inputs than text."""
    values: list[float]
    """Activation at each token or row; 0 at special tokens, which count nowhere. Rows of a
    long input are joined, and the largest of them stays."""
    context: int
    """Number of the context in the held-out text, or of the input, from 0."""
    position: int
    """Of the peak in the context, or its row."""


@dataclass(frozen=True)
class InputExample(Example):
    """An image, a clip or an item of arrays on which a latent fires."""

    input: Input

    @property
    def seconds(self) -> float | None:
        """Seconds of a clip that one of ``values`` stands for."""
        if self.input.seconds is None:
            return None
        joined = -(-self.input.rows // max(1, len(self.values)))
        return self.input.seconds / max(1, self.input.rows) * joined


@dataclass(frozen=True)
class LatentExamples:
    """One latent: how often and how strongly it fires, on what, and what it promotes."""

    latent: int
    active: int
    """Tokens on which it fires."""
    tokens: int
    """Tokens or rows that were read; special ones are left out."""
    density: float
    """``active / tokens``."""
    mean_activation: float | None
    """Over the active tokens; None if there is none."""
    max_activation: float | None
    histogram_edges: list[float]
    """Bounds of the bins, of equal width; empty if it never fires."""
    histogram_counts: list[int]
    """Active tokens in each bin."""
    top_logits: list[tuple[str, float]]
    """Tokens whose logits it raises most, and by how much per unit of activation."""
    bottom_logits: list[tuple[str, float]]
    """Tokens whose logits it lowers most, lowest first."""
    examples: list[Example]
    """Top examples by activation, then the bands from the highest to the lowest."""
    kind: str = TEXT
    """Of the examples: text, images, clips or inputs."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the patches in an example's ``values``."""


class SAEExamples:
    """
    The examples of one SAE, opened.

    Raises:
        InputError: if the table does not name its SAE.
    """

    def __init__(self, table: Any, inputs: Any = None) -> None:
        stored = (table.schema.metadata or {}).get(b"saereg", b"{}")
        self.settings: dict[str, Any] = json.loads(stored)
        """Release, group, seed, model, text, tokens and sizes of the run."""
        if not {"sae_id", "tokens"} <= set(self.settings):
            raise InputError(
                "The table of examples does not say of which SAE it is; expected the parquet "
                f"file that the evaluation {EVAL!r} writes. Run it again."
            )
        self.sae_id = str(self.settings["sae_id"])
        self._table = table
        rows = [] if inputs is None else inputs.to_pylist()
        self.inputs: dict[int, Input] = {row["input"]: Input(**row) for row in rows}
        """What the examples show, by number; empty for text."""

    @property
    def kind(self) -> str:
        """Of the examples: text, images, clips or inputs."""
        return str(self.settings.get("kind", TEXT))

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the patches in an example's ``values``."""
        found = self.settings.get("grid")
        return None if found is None else (int(found[0]), int(found[1]))

    def __len__(self) -> int:
        return self._table.num_rows

    def scalars(self) -> pd.DataFrame:
        """Return a row per latent: latent, active, density, mean_activation, max_activation."""
        return self._table.select(list(SCALARS)).to_pandas()

    def latent(self, index: int) -> LatentExamples:
        """
        Return one latent.

        Raises:
            InputError: if the SAE has no such latent.
        """
        if not 0 <= index < len(self):
            raise InputError(
                f"SAE {self.sae_id!r} has no latent {index}; expected one from 0 to "
                f"{len(self) - 1}."
            )
        (row,) = self._table.slice(index, 1).to_pylist()
        return LatentExamples(
            **{name: row[name] for name in SCALARS},
            tokens=int(self.settings["tokens"]),
            histogram_edges=row["histogram_edges"],
            histogram_counts=row["histogram_counts"],
            top_logits=list(zip(row["top_tokens"], row["top_logits"], strict=True)),
            bottom_logits=list(
                zip(row["bottom_tokens"], row["bottom_logits"], strict=True)
            ),
            examples=[self._example(example) for example in row["examples"]],
            kind=self.kind,
            grid=self.grid,
        )

    def _example(self, fields: dict[str, Any]) -> Example:
        if self.kind == TEXT:
            return Example(**fields)
        return InputExample(**fields, input=self.inputs[fields["context"]])


def read_examples(path: str | Path, sae_id: str | None = None) -> SAEExamples:
    """
    Open the examples of one SAE.

    Args:
        path: a results folder, a result of ``examples``, or the parquet file next to it.
        sae_id: the SAE; may be left out where there is only one.

    Raises:
        InputError: if there is no such SAE, several fit, or the table is missing or damaged.
    """
    path = Path(path)
    is_file = path.suffix in (".json", ".parquet") and not path.is_dir()
    place = path if is_file else _result(path, sae_id)
    opened = _opened(place)
    if sae_id not in (None, opened.sae_id):
        raise InputError(
            f"{str(path)!r} holds the examples of SAE {opened.sae_id!r}; expected "
            f"{sae_id!r}. Name the results folder instead."
        )
    return opened


def _opened(path: Path) -> SAEExamples:
    """Open a table of examples, given its own path or its result's, with that of its inputs."""
    table = EXAMPLES.read_table(path)
    opened = SAEExamples(table)
    if opened.kind == TEXT:
        return opened
    if path.name.endswith(TABLE_SUFFIX):
        path = path.with_name(path.name.removesuffix(TABLE_SUFFIX) + INPUTS_SUFFIX)
    return SAEExamples(table, INPUTS.read_table(path))


def example_results(folder: Path) -> dict[Path, str]:
    """Return the SAE ids of the results of ``examples`` below a folder, by their paths."""
    records = {
        path: read_result(path)
        for path in result_files(folder)
        # other evaluations' results can be large
        if path.parent.name == EVAL
    }
    return {
        path: str(record["sae_lens_id"])
        for path, record in records.items()
        if record["eval_type_id"] == EVAL
    }


def _result(folder: Path, sae_id: str | None) -> Path:
    """Return the only result of ``examples`` below a folder that is of the SAE."""
    found = example_results(folder)
    if not found:
        raise InputError(
            f"Folder {str(folder)!r} holds no result of {EVAL!r} (*{SUFFIX}). Run "
            f"'saereg-bench run --evals {EVAL}' into it."
        )
    paths = [path for path, name in found.items() if sae_id in (None, name)]
    if not paths:
        raise InputError(
            f"No result of {EVAL!r} is of SAE {sae_id!r}. {suggest(str(sae_id), found.values())}"
        )
    if len(paths) > 1:
        listed = ", ".join(repr(found[path]) for path in paths[:12])
        raise InputError(
            f"Folder {str(folder)!r} has {len(paths)} results of {EVAL!r} ({listed}); expected "
            "one. Name the SAE (--sae-id), or the folder of one release."
        )
    return paths[0]
