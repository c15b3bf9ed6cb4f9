"""Names, paths, counts and seeds that are taken, and those that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from saereg_plugin.checks import (
    MAX_NAME_BYTES,
    MAX_SEED,
    require_count,
    require_name,
    require_seed,
    stays_inside,
)
from saereg_plugin.errors import InputError


@pytest.mark.parametrize(
    "name", ["k32", "my release", "Größe", "a.b", "a..b", "x" * 200]
)
def test_a_name_of_one_part_is_returned(name: str) -> None:
    assert require_name("Release name", name) == name


@pytest.mark.parametrize("name", ["k32/seed0", "a/.b", "a/b/c"])
def test_a_name_of_several_parts_needs_leave(name: str) -> None:
    assert require_name("SAE id", name, slashes=True) == name
    with pytest.raises(InputError, match="has a slash or backslash"):
        require_name("SAE id", name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        ".hidden",
        "../up",
        "/root",
        "a//b",
        "a/",
        "a/../b",
        "a/./b",
        "a\\b",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "\udcff",
        "ü" * (MAX_NAME_BYTES // 2) + "x",
    ],
)
def test_names_that_no_reader_would_find_are_refused(name: str) -> None:
    for slashes in (False, True):
        with pytest.raises(
            InputError, match="Release name .*; expected 1 to 200 bytes"
        ):
            require_name("Release name", name, slashes=slashes)


@pytest.mark.parametrize("value", [None, 5, True, ["a"]])
def test_a_name_is_text(value: Any) -> None:
    with pytest.raises(InputError, match="SAE id is .*expected text"):
        require_name("SAE id", value)


@pytest.mark.parametrize("value", [-1, 0, 11, 10**100, 1.5, True, "2"])
def test_counts_outside_their_bounds_are_refused(value: object) -> None:
    require_count("steps", 1, most=10)
    require_count("steps", 10, most=10)
    with pytest.raises(
        InputError, match=f"steps is {value!r}; expected an integer from 1 to 10"
    ):
        require_count("steps", value, most=10)


def test_seeds_are_those_that_every_generator_takes() -> None:
    require_seed("Seed", 0)
    require_seed("Seed", MAX_SEED)
    for seed in (-1, MAX_SEED + 1):
        with pytest.raises(InputError, match="Seed is .*from 0 to 4,294,967,295"):
            require_seed("Seed", seed)


def test_paths_that_leave_their_folder_are_found() -> None:
    assert all(map(stays_inside, ("a", "a/b.c", "a..b", "a/")))
    outside = ("", ".", "..", "a/../b", "/a", "a\\\\b", "C:a")
    assert not any(map(stays_inside, outside))
