"""Colours of groups: the same for the same groups, apart from one another."""

from __future__ import annotations

from eval_recipes.tables.colours import COLOURS, group_colours


def test_the_order_of_groups_changes_no_colour() -> None:
    colours = group_colours(["none", "l2", "l1", "l2"])
    assert colours == group_colours(["l1", "l2", "none"])
    assert len(set(colours.values())) == 3


def test_colours_repeat_where_there_are_more_groups() -> None:
    names = [f"group{number:02}" for number in range(len(COLOURS) + 1)]
    colours = group_colours(names)
    assert colours[names[0]] == colours[names[-1]] == COLOURS[0]
    assert len(set(colours.values())) == len(COLOURS)
