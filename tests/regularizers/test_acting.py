"""Which regularisers count as such."""

from __future__ import annotations

from typing import Any

import pytest

from eval_recipes.results.tidy import penalty
from saereg_plugin.registry import acts

NAME = {"name": "weight_penalty", "norm": "l2"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({**NAME, "coefficient": 1e-5}, True),
        ({**NAME, "coefficient": 0.0}, False),
        ({**NAME, "coefficient": 0}, False),
        (NAME, False),
        ({**NAME, "coefficient": None, "schedule": None}, False),
        ({**NAME, "schedule": {"warm_up_steps": 5, "final_coefficient": 0.0}}, False),
        ({**NAME, "schedule": {"anneal": "linear", "final_coefficient": 1e-4}}, True),
        ({**NAME, "schedule": {"anneal": "cosine"}}, False),
        # without annealing the coefficient never gets there
        ({**NAME, "schedule": {"final_coefficient": 1e-4}}, False),
        ({**NAME, "schedule": {"anneal": "none", "final_coefficient": 1e-4}}, False),
        ("weight_penalty", False),
        (None, False),
    ],
)
def test_a_coefficient_of_0_is_no_penalty(given: Any, expected: bool) -> None:
    assert acts(given) is expected
    # results call the SAE by the same rule
    details = {"regularizers": [given]}
    found = penalty({"metadata": {"training_architecture_details": details}})
    assert (found != "none") is expected
