"""Colours of groups: the same for the same groups, apart from one another."""

from __future__ import annotations

from pathlib import Path

from eval_recipes.tables.colours import (
    COLOURS,
    folder_colours,
    group_colours,
    record_key,
)
from tests.eval_recipes.report.result_files import core, write


def test_the_order_of_groups_changes_no_colour() -> None:
    colours = group_colours(["none", "l2", "l1", "l2"])
    assert colours == group_colours(["l1", "l2", "none"])
    assert len(set(colours.values())) == 3


def test_colours_repeat_where_there_are_more_groups() -> None:
    names = [f"group{number:02}" for number in range(len(COLOURS) + 1)]
    colours = group_colours(names)
    assert colours[names[0]] == colours[names[-1]] == COLOURS[0]
    assert len(set(colours.values())) == len(COLOURS)


def test_a_group_has_the_colour_that_it_has_among_all_groups_of_the_folder(
    tmp_path: Path,
) -> None:
    records = [core(group, 0) for group in ("none", "l2", "a")]
    other = core("none", 1) | {"sae_lens_release_id": "other"}
    for number, one in enumerate((*records, other)):
        write(tmp_path, one, name=str(number))
    expected = group_colours(["a", "l2", "lab/none", "other/none"])
    found = folder_colours(tmp_path)
    assert found[record_key(records[1])] == expected["l2"]
    assert found[record_key(records[0])] == expected["lab/none"]
    assert found[record_key(other)] == expected["other/none"]
