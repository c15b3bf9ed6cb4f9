"""What the commands print at the end of a run of evaluations."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape


def print_outcome(outcome: Any, console: Console) -> bool:
    """Print the tables and the failures; return whether there were failures."""
    from eval_recipes.frame import shown
    from eval_recipes.report import print_table

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    print_table(outcome.frame, console, outcome.differences)
    say(f"\nAll figures: {outcome.summary}")
    if outcome.kept:
        say(f"Kept from earlier runs: {outcome.kept} results that are current.")
    if outcome.outdated:
        say(
            f"Outdated, in the folder but not in these tables: {len(outcome.outdated)} earlier "
            "results whose successors failed."
        )
    for failure in outcome.failures:
        cause = escape(shown(failure.cause) or "")
        console.print(
            f"[red]failed[/] {failure.eval} of {escape(shown(failure.sae_id) or '')}: {cause}",
            soft_wrap=True,
        )
    return bool(outcome.failures)
