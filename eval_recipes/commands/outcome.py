"""What the commands print at the end of a run of evaluations."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape


def print_outcome(outcome: Any, console: Console) -> bool:
    """Print the tables and the failures; return whether there were failures."""
    from eval_recipes.report import print_table

    print_table(outcome.frame, console, outcome.differences)
    console.print(f"\nAll figures: {outcome.summary}")
    for failure in outcome.failures:
        console.print(
            f"[red]failed[/] {failure.eval} of {escape(failure.sae_id)}: {escape(failure.cause)}"
        )
    return bool(outcome.failures)
