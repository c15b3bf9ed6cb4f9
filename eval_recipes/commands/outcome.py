"""What the commands print at the end of a run of evaluations."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from eval_recipes.commands.console import shown


def print_outcome(outcome: Any, console: Console) -> bool:
    """Print the tables and the failures; return whether there were failures."""
    from eval_recipes.tables.run_table import print_table

    print_table(outcome.frame, console, outcome.differences)
    console.print(f"\nAll figures: {shown(outcome.summary)}")
    if outcome.kept:
        console.print(
            f"Kept from earlier runs, since they are current: {_results(outcome.kept)}."
        )
    if outcome.outdated:
        console.print(
            "Outdated, in the folder but not in these tables, as what should have replaced them "
            f"failed: {_results(len(outcome.outdated))}."
        )
    for failure in outcome.failures:
        console.print(
            f"[red]failed[/] {failure.eval} of {shown(failure.sae_id)}: {shown(failure.cause)}",
            soft_wrap=True,
        )
    return bool(outcome.failures)


def _results(count: int) -> str:
    return f"{count} result" if count == 1 else f"{count} results"
