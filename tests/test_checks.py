"""Names that can be part of a file's name, and those that cannot."""

from __future__ import annotations

from typing import Any

import pytest

from saereg_plugin.checks import MAX_NAME_BYTES, require_name
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
