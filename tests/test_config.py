"""Schedules against their closed forms."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import saereg_plugin as sr
from saereg_plugin.config import Anneal, choice
from saereg_plugin.errors import InputError

coefficients = st.floats(0, 1e3, allow_subnormal=False)
lengths = st.integers(1, 10_000)


@given(coefficients, st.integers(0, 10_000), st.integers(0, 30_000))
def test_warm_up_rises_linearly_then_stays(
    coefficient: float, warm_up: int, step: int
) -> None:
    value = sr.Schedule(warm_up_steps=warm_up).value(coefficient, step)
    share = 1.0 if warm_up == 0 else min(1.0, step / warm_up)
    assert value == pytest.approx(coefficient * share, rel=1e-12)


@given(coefficients, coefficients, st.integers(0, 100), lengths, st.floats(0, 1.5))
def test_annealing_follows_its_closed_form(
    coefficient: float, final: float, gap: int, length: int, where: float
) -> None:
    warm_up = 50
    start = warm_up + gap
    step = start + int(where * length)
    progress = min(1.0, (step - start) / length)
    mixtures: dict[Anneal, float] = {
        "linear": 1 - progress,
        "cosine": math.cos(math.pi * progress / 2) ** 2,
    }
    for anneal, left in mixtures.items():
        schedule = sr.Schedule(
            warm_up_steps=warm_up,
            anneal=anneal,
            anneal_start=start,
            anneal_steps=length,
            final_coefficient=final,
        )
        expected = coefficient * left + final * (1 - left)
        assert schedule.value(coefficient, step) == pytest.approx(
            expected, rel=1e-9, abs=1e-9
        )
        assert schedule.value(coefficient, start) == pytest.approx(
            coefficient, rel=1e-12, abs=1e-12
        )
        assert schedule.value(coefficient, start + length) == pytest.approx(
            final, abs=1e-9
        )
        assert schedule.value(coefficient, 25) == pytest.approx(coefficient / 2)
        assert schedule.value(coefficient, 0) == 0


@given(coefficients, st.integers(0, 10**9))
def test_default_schedule_is_constant(coefficient: float, step: int) -> None:
    assert sr.Schedule().value(coefficient, step) == coefficient


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"anneal": "expo"}, "anneal is 'expo'. Known: "),
        (
            {"final_coefficient": 1e-4},
            "final_coefficient is 0.0001, but anneal is 'none'.* Set anneal to",
        ),
        ({"anneal": "linea"}, "Did you mean 'linear'?"),
        ({"warm_up_steps": -1}, "warm_up_steps=-1.*0 or more"),
        ({"anneal_start": -2}, "anneal_start=-2"),
        ({"anneal_steps": -3}, "anneal_steps=-3"),
        ({"final_coefficient": -1.0}, "final_coefficient is -1.0"),
        ({"final_coefficient": math.nan}, "final_coefficient is nan"),
        ({"final_coefficient": math.inf}, "final_coefficient is inf"),
        ({"anneal": "linear"}, "needs anneal_steps of at least 1, got 0"),
        (
            {
                "anneal": "cosine",
                "anneal_steps": 5,
                "warm_up_steps": 9,
                "anneal_start": 8,
            },
            "anneal_start=8 lies in the warm-up of 9 steps",
        ),
    ],
)
def test_bad_schedule_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.InputError, match=message):
        sr.Schedule(**fields)


@pytest.mark.parametrize("kind", ["nats", int, Literal["bits"]])
def test_a_choice_is_among_the_values_of_a_literal(kind: Any) -> None:
    with pytest.raises(
        InputError, match="expected a typing.Literal that has the default"
    ):
        choice("nats", kind)
