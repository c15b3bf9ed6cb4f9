"""``saereg-bench list``."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from eval_recipes.commands.console import open_console
from eval_recipes.registry import RECIPES, UNAVAILABLE
from saereg_plugin.registry import ARCHITECTURES, MECHANICS, REGULARIZERS
from saereg_plugin.sources.models import EMBEDDED


def list_(
    releases: Annotated[
        bool, typer.Option(help="List SAELens' public releases, too.")
    ] = False,
) -> None:
    """List architectures, regularisers, evaluations and models."""
    import saereg_plugin  # noqa: F401  # pyright: ignore[reportUnusedImport]  (registers)
    from eval_recipes.commands.list_ import sections

    console = open_console(soft_wrap=False)
    for title, rows in sections(public_releases=releases).items():
        table = Table(
            title=title,
            title_justify="left",
            box=None,
            show_header=False,
            pad_edge=False,
        )
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
        console.print()


Rows = list[tuple[str, ...]]


def sections(*, public_releases: bool = False) -> dict[str, Rows]:
    """Return what can be trained and evaluated, by heading."""
    directory = get_pretrained_saes_directory()
    found: dict[str, Rows] = {
        "Architectures": [
            (name, f"saved as SAELens' {_saved_as(cfg)}")
            for name, (_, cfg) in ARCHITECTURES.items()
        ],
        "Regularisers": [(name, _fields(cfg)) for name, cfg in REGULARIZERS.items()],
        "Training mechanics": [(name, _fields(cfg)) for name, cfg in MECHANICS.items()],
        "Evaluations": [(recipe.name, recipe.summary) for recipe in RECIPES.values()],
        "Unavailable evaluations": list(UNAVAILABLE.items()),
        "Embedded models": [
            (name, asset.requirement) for name, asset in EMBEDDED.items()
        ],
        "Releases": [
            (f"{len(directory)} public releases of SAELens; --releases lists them",)
        ],
    }
    if public_releases:
        found["Releases"] = [(name, entry.model) for name, entry in directory.items()]
    return found


def _fields(cfg: type[Any]) -> str:
    return ", ".join(field.name for field in dataclasses.fields(cfg))


def _saved_as(cfg: type[Any]) -> str:
    inference: Any = inspect.getattr_static(cfg, "inference_config")
    return inference.architecture()
