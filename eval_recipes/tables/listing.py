"""
Names, summaries and descriptions of what can be trained and evaluated.

They are stored in two files next to this module, so that showing them does not import what they
name. ``saereg-bench schemas --write`` makes the files from the registries.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eval_recipes.registry import RECIPES, UNAVAILABLE, load_evaluation
from saereg_plugin.machine import require_extra

Rows = list[tuple[str, ...]]

LISTING = Path(__file__).with_name("listing.json")
"""Rows by heading."""

DESCRIPTIONS = Path(__file__).with_name("descriptions.json")
"""
Descriptions by name, except those of architectures.

An architecture has the fields of SAELens' own, in the version that is installed.
"""

GROUPS = {
    "Architectures": "saereg_plugin.architectures",
    "Regularisers": "saereg_plugin.regularizers",
    "Training mechanics": "saereg_plugin.mechanics",
}
"""Heading -> group of the entry points of other packages."""

_EVALUATIONS = "Evaluations"
_OURS = re.compile(r"(saereg_plugin|eval_recipes)\.")


@dataclass(frozen=True)
class Description:
    """
    What a person wants to know before using a name.

    Attributes:
        title: kind and name.
        text: docstring, with the formula.
        sources: addresses of papers.
        file: where it is defined.
        fields: name, type, default, and meaning where the code says it.
    """

    title: str
    text: str
    sources: tuple[str, ...]
    file: str
    fields: tuple[tuple[str, str, str, str], ...]


def stored_descriptions(name: str) -> list[Description]:
    """
    Return a stored description for each kind of thing that has the name.

    There is none of an architecture, of an unknown name, or where the name is also one of
    another package: ``description.describe`` knows these.

    Raises:
        InputError: for an evaluation, if the packages that it needs are missing.
    """
    points = [point for group in GROUPS.values() for point in entry_points(group=group)]
    own = _OURS.match(RECIPES.get(name, __name__))
    if not own or name in {point.name for point in points}:
        return []
    if name in RECIPES:
        require_extra("bench", f"`saereg-bench list {name}`")
    stored = json.loads(DESCRIPTIONS.read_text(encoding="utf-8"))
    return [
        Description(
            one["title"],
            one["text"],
            tuple(one["sources"]),
            one["file"],
            tuple(tuple(field) for field in one["fields"]),
        )
        for one in stored.get(name, ())
    ]


def sections() -> dict[str, Rows]:
    """Return name and summary of everything by heading; imports nothing heavy."""
    stored = json.loads(LISTING.read_text(encoding="utf-8"))
    found: dict[str, Rows] = {
        title: [tuple(row) for row in rows] for title, rows in stored.items()
    }
    for title, group in GROUPS.items():
        found[title] += [
            (point.name, _plugin_summary(point)) for point in entry_points(group=group)
        ]
    known = {name for name, _ in found[_EVALUATIONS]}
    found[_EVALUATIONS] += [
        (name, load_evaluation(name).summary) for name in RECIPES if name not in known
    ]
    return found | {"Unavailable evaluations": list(UNAVAILABLE.items())}


def public_releases() -> Rows:
    """Return name and model of each public release of SAELens."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    return [(name, entry.model) for name, entry in directory.items()]


def listing_text() -> str:
    """Return the content of ``LISTING``, from the registries; others' entries are left out."""
    from saereg_plugin.presets import PRESETS
    from saereg_plugin.registry import ARCHITECTURES, MECHANICS, REGULARIZERS
    from saereg_plugin.sources.models import EMBEDDED

    rows = {
        "Architectures": [
            (name, f"saved as SAELens' {_saved_as(cfg)}")
            for name, (sae, cfg) in ARCHITECTURES.items()
            if _OURS.match(sae.__module__)
        ],
        "Regularisers": list(_first_lines(REGULARIZERS)),
        "Training mechanics": list(_first_lines(MECHANICS)),
        "Presets": [
            (name, str(inspect.getdoc(make)).split("\n")[0])
            for name, make in PRESETS.items()
        ],
        _EVALUATIONS: [
            (name, load_evaluation(name).summary)
            for name, place in RECIPES.items()
            if _OURS.match(place)
        ],
        "Embedded models": [
            (name, asset.requirement) for name, asset in EMBEDDED.items()
        ],
    }
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def _first_lines(table: Mapping[str, type[Any]]) -> Iterator[tuple[str, str]]:
    """Yield each name with the first line of its module, in the order of the modules."""
    for name, cls in sorted(table.items(), key=lambda entry: entry[1].__module__):
        if _OURS.match(cls.__module__):
            doc = inspect.getdoc(sys.modules[cls.__module__]) or ""
            yield name, doc.split("\n")[0]


def _plugin_summary(point: EntryPoint) -> str:
    """Return the first line of a plug-in's docstring, read without importing it."""
    package = "unknown" if point.dist is None else point.dist.name
    try:
        path = _source(point.module)
        text = "" if path is None else path.read_text(encoding="utf-8")
        line = (_docstring(ast.parse(text), point) or "").split("\n")[0]
    except (OSError, SyntaxError, ValueError):
        # what is broken is told where the name is used; a list says what it can
        line = ""
    return f"{line} (package {package})" if line else f"of the package {package}"


def _source(module: str) -> Path | None:
    """Return the file of a module; none of its package is imported."""
    top, *inner = module.split(".")
    spec = find_spec(top)
    if spec is None:
        return None
    if not inner:
        return None if spec.origin is None else Path(spec.origin)
    bases = [Path(at, *inner) for at in spec.submodule_search_locations or ()]
    paths = [
        path for base in bases for path in (Path(f"{base}.py"), base / "__init__.py")
    ]
    return next(filter(Path.is_file, paths), None)


def _docstring(tree: ast.Module, point: EntryPoint) -> str | None:
    """Return the docstring of the class that a module registers, or the module's own."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            given = [
                argument.value
                for call in node.decorator_list
                if isinstance(call, ast.Call)
                for argument in call.args
                if isinstance(argument, ast.Constant)
            ]
            if node.name == point.attr or point.name in given:
                return ast.get_docstring(node) or ast.get_docstring(tree)
    return ast.get_docstring(tree)


def _saved_as(cfg: type[Any]) -> str:
    inference: Any = inspect.getattr_static(cfg, "inference_config")
    return inference.architecture()
