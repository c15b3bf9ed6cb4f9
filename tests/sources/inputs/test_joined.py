"""Sets of inputs that are read as one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs.data import Clip
from saereg_plugin.sources.inputs.joined import JoinedData
from saereg_plugin.sources.inputs.listed import ListedData


def clips(name: str, n: int, takes: str = "clips") -> ListedData:
    def read(number: int) -> object:
        if takes == "images":
            return Image.new("RGB", (2, 2))
        return Clip(np.full(3, number, dtype=np.float32), 8000, f"{name} {number}")

    titles = [f"{name}-{number}" for number in range(n)]
    return ListedData(name, takes, read, titles, [name, n], [False] * n)  # type: ignore[arg-type]


def test_inputs_follow_each_other_and_know_their_set() -> None:
    joined = JoinedData([clips("a", 3), clips("b", 2)])
    assert len(joined) == 5 and joined.takes == "clips" and joined.name == "a + b"
    assert [joined[n].text for n in range(5)] == ["a 0", "a 1", "a 2", "b 0", "b 1"]
    assert joined.title(3) == "b: b-0"
    assert joined.labels.tolist() == [0, 0, 0, 1, 1]
    assert joined.class_names == ["a", "b"]
    for number in (-1, 5):
        with pytest.raises(IndexError):
            joined[number]


def test_the_identity_changes_with_a_part() -> None:
    one = JoinedData([clips("a", 3), clips("b", 2)]).identity()
    assert one == JoinedData([clips("a", 3), clips("b", 2)]).identity()
    assert one != JoinedData([clips("a", 3), clips("b", 3)]).identity()


def test_sets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="hold clips and images"):
        JoinedData([clips("a", 3), clips("b", 2, "images")])
    with pytest.raises(InputError, match="two different sets"):
        JoinedData([clips("a", 3), clips("a", 3)])
