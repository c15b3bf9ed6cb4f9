"""Thinning of training curves for the report page."""

from __future__ import annotations

import pytest

from eval_recipes.report.training import even_indices


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (0, 3, []),
        (2, 3, [0, 1]),
        (5, 3, [0, 2, 4]),
        (5, 2, [0, 4]),
        (5, 1, [4]),
        (5, 0, []),
    ],
)
def test_indices_are_even(count: int, most: int, expected: list[int]) -> None:
    assert even_indices(count, most) == expected
