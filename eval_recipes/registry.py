"""Every evaluation by name: the one table that command line, documentation and tests read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import MappingProxyType

from eval_recipes.context import Failure, RunContext
from saereg_plugin.errors import InputError, suggest


@dataclass(frozen=True)
class Recipe:
    """
    An evaluation.

    ``check`` refuses, before anything is loaded, what the evaluation cannot work on;
    ``run`` writes one result file an SAE and returns the failures.
    """

    name: str
    summary: str
    check: Callable[[RunContext], None]
    run: Callable[[RunContext], list[Failure]]


# SAEBench takes seconds to import, so a recipe's module is imported when it is used.


def _check_core(context: RunContext) -> None:
    from eval_recipes.saebench import core

    core.core_options(context)


def _run_core(context: RunContext) -> list[Failure]:
    from eval_recipes.saebench import core

    return core.run(context)


def _check_cross_seed(context: RunContext) -> None:
    from eval_recipes.cross_seed import main

    main.check(context)


def _run_cross_seed(context: RunContext) -> list[Failure]:
    from eval_recipes.cross_seed import main

    return main.run(context)


RECIPES = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(
                "core",
                "SAEBench's core metrics, with corrected explained variance beside them",
                _check_core,
                _run_core,
            ),
            Recipe(
                "cross_seed",
                "how alike SAEs are that differ only in their seed, and groups compared",
                _check_cross_seed,
                _run_cross_seed,
            ),
        )
    }
)


def recipes(names: Iterable[str]) -> list[Recipe]:
    """
    Return recipes by name, in the order given.

    Raises:
        InputError: for an unknown name, with the nearest one.
    """
    chosen: list[Recipe] = []
    for name in names:
        if name not in RECIPES:
            raise InputError(f"Unknown evaluation {name!r}. {suggest(name, RECIPES)}")
        chosen.append(RECIPES[name])
    if not chosen:
        raise InputError(f"No evaluation was named. Known: {', '.join(RECIPES)}.")
    return chosen
