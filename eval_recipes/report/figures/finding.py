"""Finder of the files that hold figures of studies and commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from eval_recipes.report.figures.comparisons import (
    distillation_part,
    pool_part,
    revival_part,
)
from eval_recipes.report.figures.part import Part, Reader
from eval_recipes.report.figures.study import study_part
from eval_recipes.report.figures.texts import layers_part, order_part
from saereg_plugin.errors import InputError
from saereg_plugin.files import read_json


@dataclass(frozen=True)
class Format:
    """
    A file that one command writes.

    Attributes:
        file: its name.
        command: that writes it.
        shows: what of, in a few words.
        keys: by which it is known.
        read: makes the part of the page.
    """

    file: str
    command: str
    shows: str
    keys: frozenset[str]
    read: Reader


FORMATS = (
    Format(
        "results.json",
        "study",
        "table and statements of a study",
        frozenset({"study", "scale", "groups"}),
        study_part,
    ),
    Format(
        "pool.json",
        "pool",
        "pooled seeds against fresh SAEs and a control",
        frozenset({"rows", "verdicts", "pools"}),
        pool_part,
    ),
    Format(
        "revival.json",
        "revive",
        "gains of dead latents that were given back",
        frozenset({"rows", "verdicts"}),
        revival_part,
    ),
    Format(
        "distillation.json",
        "distill",
        "distilled cores against their controls",
        frozenset({"rows", "sentences"}),
        distillation_part,
    ),
    Format(
        "layers.json",
        "layers",
        "layers that tell two sets of texts apart",
        frozenset({"saes", "best"}),
        layers_part,
    ),
    Format(
        "scores.json",
        "data",
        "held-out scores of the order of texts",
        frozenset({"scores", "differences", "verdicts"}),
        order_part,
    ),
)
_BY_NAME = {one.file: one for one in FORMATS}
_CACHE = frozenset({"key", "sha256", "figures"})
"""Keys of what a study keeps for itself; its results.json has the figures."""
_MAX_BYTES = 1 << 26


@dataclass(frozen=True)
class Found:
    """One file on the page; ``anchor`` is unique there."""

    anchor: str
    file: str
    part: Part


@dataclass(frozen=True)
class Further:
    """
    Figures of studies and commands.

    Attributes:
        found: a part for each file.
        absent: formats without a file.
        trouble: why files cannot be shown.
    """

    found: list[Found]
    absent: list[Format]
    trouble: list[str]


def read_further(results: Path, figures: Iterable[Path] = ()) -> Further:
    """
    Return the figures of the files in a folder, in folders below it, and in further places.

    Args:
        results: folder of results.
        figures: further files, or folders of them.

    Raises:
        InputError: if there is no such further file or folder, or a file that was named is none
            of these.
    """
    found: list[Found] = []
    trouble: list[str] = []
    seen: list[Format] = []
    for path, is_named in _files(results, figures):
        anchor = f"further-{len(found) + 1}"
        try:
            read = _read(path, anchor)
        except InputError as error:
            if is_named:
                raise
            trouble.append(str(error))
            continue
        if read is not None:
            form, part = read
            seen.append(form)
            found.append(Found(anchor, _shown(path, results), part))
    absent = [one for one in FORMATS if one not in seen]
    return Further(found, absent, trouble)


def _files(results: Path, figures: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield each file once, and whether it was named itself: first those of further places."""
    known: set[Path] = set()
    places: list[tuple[Path, bool]] = []
    for place in figures:
        if not place.exists():
            raise InputError(
                f"{str(place)!r} does not exist; expected a file named {_names()}, or a folder of such."
            )
        named = not place.is_dir()
        places += [(one, named) for one in ([place] if named else _below(place))]
    places += [(one, False) for one in _below(results)]
    for path, named in places:
        if path.resolve() not in known:
            known.add(path.resolve())
            yield path, named


def _below(folder: Path) -> list[Path]:
    order = [one.file for one in FORMATS]
    found = (path for name in order for path in folder.rglob(name) if path.is_file())
    return sorted(found, key=lambda path: (order.index(path.name), path))


def _names() -> str:
    return ", ".join(repr(one.file) for one in FORMATS)


def _read(path: Path, anchor: str) -> tuple[Format, Part] | None:
    """Return a file's part; None for what a study keeps for itself."""
    content = read_json(
        path,
        remedy="Write it again, or move it out of the folder.",
        max_bytes=_MAX_BYTES,
    )
    keys = set(content) if isinstance(content, dict) else set()
    if keys >= _CACHE:
        return None
    # a copy may have another name; of two formats the one with more keys is first
    likely = next((one for one in FORMATS if one.keys <= keys), FORMATS[0])
    form = _BY_NAME.get(path.name, likely)
    if not form.keys <= keys:
        raise InputError(
            f"{str(path)!r} is not shown: it lacks {', '.join(sorted(form.keys - keys))}; expected what "
            f"'saereg-bench {form.command}' writes as {form.file}."
        )
    try:
        return form, form.read(anchor, content)
    except ValidationError as error:
        raise InputError(
            f"{str(path)!r} is not shown: {_first(error)}; expected what 'saereg-bench {form.command}' writes."
        ) from error


def _first(error: ValidationError) -> str:
    one = error.errors(include_url=False, include_input=False)[0]
    return f"{'/'.join(map(str, one['loc']))}: {one['msg']}"


def _shown(path: Path, results: Path) -> str:
    """Return the path in the folder of results, or file and folder elsewhere."""
    whole, root = path.resolve(), results.resolve()
    if whole.is_relative_to(root):
        return whole.relative_to(root).as_posix()
    return f"{whole.parent.name}/{whole.name}"
