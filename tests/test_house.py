"""The house rules: one way of arrows, small folders, names that a newcomer finds."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = (
    {"cli"},
    {"commands"},
    {"doctor"},
    {"speed"},
    {"studies"},
    {"report", "neuronpedia", "layers"},
    {"width_control", "data_order", "pooling"},
    {"steering"},
    {"attribution"},
    {"saebench", "cross_seed", "vocabulary", "vision", "mdl", "death"},
    {"examples"},
    {"distillation"},
    {"revival"},
    {"chat"},
    {"running", "tables", "labelled"},
    {"results"},
    {"select"},
    {"statistics"},
    {"registry"},
)
"""Rooms of eval_recipes; each imports only from those below it. saereg_plugin is below all."""

MOST_MODULES = 15
LEAST_LINES = 75
ONE_FILE_EACH = ("commands", "mechanics", "regularizers")
"""Rooms with a file per command, mechanic or regulariser, however short."""
ALONE = {
    "eval_recipes.results.schemas": "the command that uses it has no logic",
}
"""Short modules with a single importer that stay, and why."""
EVALUATION = ("main", "options", "output")
"""Modules that the folder of every evaluation has, however short."""
MOST_WORDS = 12
QUESTIONS = ("What", "Which", "How", "Where", "Who")


@cache
def modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for package in ("saereg_plugin", "eval_recipes"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(tree: ast.AST, *, types: bool) -> Iterator[str]:
    """Every imported name, also in functions; those for type checkers alone if ``types``."""
    for node in ast.iter_child_nodes(tree):
        checked = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if checked and not types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node, types=types)


@cache
def arrows(*, types: bool = False) -> dict[str, set[str]]:
    """Modules that each module imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in modules().items():
        for inner in imported(ast.parse(path.read_text(encoding="utf-8")), types=types):
            target = inner if inner in modules() else inner.rpartition(".")[0]
            if target in modules() and target != name:
                found[name].add(target)
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_no_circle_of_imports() -> None:
    free: set[str] = set()
    left = set(modules())
    while ready := {name for name in left if arrows()[name] <= free}:
        free |= ready
        left -= ready
    assert left == set()


def test_arrows_run_down() -> None:
    rank = {name: number for number, rooms in enumerate(ORDER) for name in rooms}
    up = [
        (name, target)
        for name, targets in arrows(types=True).items()
        for target in targets
        if name.startswith("eval_recipes.") and target.startswith("eval_recipes.")
        if room(name) != room(target) and rank[room(name)] >= rank[room(target)]
    ]
    assert up == []
    assert not [
        (name, target)
        for name, targets in arrows(types=True).items()
        for target in targets
        if name.startswith("saereg_plugin") and target.startswith("eval_recipes")
    ]


def test_transformer_lens_has_one_door() -> None:
    users = {
        name
        for name, path in modules().items()
        for inner in imported(ast.parse(path.read_text(encoding="utf-8")), types=True)
        if inner.split(".")[0] == "transformer_lens"
    }
    assert users == {
        *(f"saereg_plugin.sources.{name}" for name in ("hook_shapes", "models")),
        "saereg_plugin.sources.model_folders",
        # its key-value cache
        "eval_recipes.steering.generate.backend",
    }


@pytest.mark.parametrize("package", ["saereg_plugin", "eval_recipes"])
def test_folders_are_small_and_no_family_goes_by_a_prefix(package: str) -> None:
    for folder in [ROOT / package, *(ROOT / package).rglob("*/")]:
        names = sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")
        assert len(names) <= MOST_MODULES, (folder, len(names))
        prefixes = [n.split("_")[0] for n in names if "_" in n.strip("_")]
        twice = {p for p in prefixes if prefixes.count(p) > 1}
        assert twice == set(), (folder, twice)


@pytest.mark.parametrize("name", sorted(modules()))
def test_docstring_names_the_module(name: str) -> None:
    text = modules()[name].read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    assert first, name
    assert not first.startswith(QUESTIONS), first
    assert len(first.split()) <= MOST_WORDS, first


def test_short_modules_have_several_importers() -> None:
    importers: dict[str, set[str]] = defaultdict(set)
    # a package exports its names for type checkers alone, and imports them on use
    for name, targets in arrows(types=True).items():
        for target in targets:
            importers[target].add(name)
    alone = {
        name
        for name, path in modules().items()
        if path.stem not in ("__init__", *EVALUATION)
        and path.parent.name not in ONE_FILE_EACH
        and len(importers[name]) == 1
        and len(path.read_text(encoding="utf-8").splitlines()) < LEAST_LINES
    }
    assert alone == set(ALONE)
    assert len(ALONE) <= 15
