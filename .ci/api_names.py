"""
MkDocs hook: the API pages name what the packages export.

``<!-- names of saereg_plugin -->`` on a page becomes one entry of mkdocstrings for each public
name of that package, under a heading for each folder that the names come from.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

TITLES = {
    "architectures": "Architectures",
    "regularizers": "Regularisers",
    "mechanics": "Mechanics",
    "sweeps": "Sweeps",
    "releases": "Releases",
    "sources": "Models and texts",
    "running": "Evaluate",
    "results": "Results",
    "tables": "Tables and plots",
    "steering": "Tables and plots",
    "width_control": "Tables and plots",
}
"""Headings by folder; names from other places are under ``OTHER``, which comes last."""
OTHER = "Checks, components and errors"
OF_MODULES = ["ensure", "load"]
"""What is shown of a module that is exported whole."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks on a page."""
    return re.sub(r"<!-- names of ([\w.]+) -->", lambda m: _listing(m[1]), markdown)


def exported(package: str) -> dict[str, str]:
    """Return module of each public name that a package imports from its own modules."""
    folder = ROOT / package.replace(".", "/")
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    listed = _all(tree)
    return {
        name.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for name in node.names
        if node.module.partition(".")[0] == package.partition(".")[0]
        and (name.asname == name.name or name.name in listed)
    }


def _all(tree: ast.Module) -> list[str]:
    """Return the names of a written ``__all__``."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            return ast.literal_eval(node.value)
    return []


def _listing(package: str) -> str:
    """Return the entries of a package's names, by heading."""
    sections: dict[str, list[str]] = {title: [] for title in [*TITLES.values(), OTHER]}
    for name, module in exported(package).items():
        folder = module.removeprefix(f"{package}.").partition(".")[0]
        sections[TITLES.get(folder, OTHER)].append(_entry(module, name))
    filled = {title: entries for title, entries in sections.items() if entries}
    if len(filled) == 1:
        return "\n".join(*filled.values())
    return "\n".join(
        f"## {title}\n\n" + "\n".join(entries) for title, entries in filled.items()
    )


def _entry(module: str, name: str) -> str:
    entry = f"::: {module}.{name}\n"
    if (ROOT / module.replace(".", "/") / f"{name}.py").is_file():
        entry += f"    options:\n      members: {OF_MODULES}\n"
    return entry
