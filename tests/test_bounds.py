"""Bounds on counts, seeds and memory."""

from __future__ import annotations

import pytest

from saereg_plugin.bounds import (
    MAX_SEED,
    require_count,
    require_memory,
    require_seed,
)
from saereg_plugin.errors import InputError


@pytest.mark.parametrize("value", [-1, 0, 11, 10**100])
def test_counts_outside_their_bounds_are_refused(value: int) -> None:
    assert require_count("steps", 1, most=10) == 1
    assert require_count("steps", 10, most=10) == 10
    with pytest.raises(InputError, match=f"steps is {value}; expected 1 to 10"):
        require_count("steps", value, most=10)


def test_seeds_are_those_that_every_generator_takes() -> None:
    assert [require_seed(seed) for seed in (0, MAX_SEED)] == [0, MAX_SEED]
    for seed in (-1, MAX_SEED + 1):
        with pytest.raises(InputError, match="Seed is .*expected 0 to 4,294,967,295"):
            require_seed(seed)


def test_more_memory_than_the_machine_has_is_refused() -> None:
    require_memory("This", 1)
    with pytest.raises(InputError, match="This needs at least 1,048,576.0 GiB .*cpu"):
        require_memory("This", 1 << 50)
