"""Figures of dated facts: against plain loops, with planted shifts, and their intervals."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import numpy as np
import pytest

from eval_recipes.steering.facts.figures import (
    INTERVALS,
    P_VALUES,
    FactsMetrics,
    facts_fields,
    facts_summary,
    latent_shifts,
    p_value,
)
from eval_recipes.steering.facts.file import Fact
from eval_recipes.steering.facts.measure import Arm, Measurement, Pushed
from eval_recipes.steering.facts.scores import NameScores
from tests.oracles import facts_oracle

N = 12


def scores(seed: int, shift: float = 0.0, n: int = N) -> NameScores:
    generator = np.random.default_rng(seed)
    return NameScores(generator.normal(size=n), generator.normal(size=n) + shift)


def fact(number: int, question: int | None = None) -> Fact:
    asked = number if question is None else question
    return Fact(
        date(2000, 1, 1 + number), f"{{date}} {asked}", f"a{number}", f"b{number}", "s"
    )


def measured(
    shift: float = 0.0, controls: int = 6, questions: int = N, **more: Any
) -> Measurement:
    before = scores(0)

    def pushed(arm: Arm, number: int, seed: int, shift: float) -> Pushed:
        noise = scores(seed)
        after = NameScores(
            before.holder + 0.1 * noise.holder,
            before.later + 0.1 * noise.later + shift,
        )
        return Pushed(arm, number, 5.0, 5.0, after)

    arms = [
        pushed("together", 0, 1, shift),
        pushed("latent", 7, 2, shift / 2),
        pushed("latent", 9, 3, 0.0),
        *(pushed("random", c, 10 + c, 0.0) for c in range(controls)),
        *(pushed("random_latents", c, 50 + c, 0.0) for c in range(controls)),
        *(pushed("mean_difference", 0, 90, shift) for _ in range(1)),
    ]
    facts = tuple(fact(number, number % questions) for number in range(N))
    found: dict[str, Any] = {
        "facts": facts,
        "before": before,
        "dated": (0, 3, 5),
        "at_later_date": scores(5, n=3),
        "pushed": tuple(arms),
    }
    return Measurement(**{**found, **more})


def pairs(one: NameScores) -> list[tuple[float, float]]:
    return list(zip(one.holder.tolist(), one.later.tolist(), strict=True))


def test_the_figures_are_those_of_plain_loops() -> None:
    found = measured(shift=0.3)
    fields = facts_fields(found, 5.0, 0)
    (together,) = found.of(5.0, "together")
    before = pairs(found.before)
    shift = facts_oracle.shift(before, pairs(together.scores))
    nulls = {
        arm: [
            facts_oracle.shift(before, pairs(one.scores)) for one in found.of(5.0, arm)
        ]
        for arm in ("random", "random_latents")
    }
    assert fields["shift"] == pytest.approx(shift)
    for arm, null in nulls.items():
        assert fields[f"shift_{arm}"] == pytest.approx(sum(null) / 6)
        assert fields[f"over_{arm}"] == pytest.approx(shift - sum(null) / 6)
        assert fields[f"p_{arm}"] == facts_oracle.p_value(shift, null) == 1 / 7
        assert (fields[f"shift_{arm}_n"], fields[f"over_{arm}_n"]) == (6, N)
    share = sum(later > holder for holder, later in before) / N
    assert fields["prefers_later"] == pytest.approx(share)
    assert fields["difference"] == pytest.approx(
        sum(later - holder for holder, later in before) / N
    )
    assert found.at_later_date is not None
    at_later = pairs(found.at_later_date)
    effect = sum(
        (later - holder) - (before[place][1] - before[place][0])
        for place, (holder, later) in zip(found.dated, at_later, strict=True)
    )
    assert fields["date_effect"] == pytest.approx(effect / 3)
    assert fields["date_effect_n"] == 3
    assert fields["shift_mean_difference"] is not None
    assert fields["p_random_mean_difference"] == 1 / 7
    assert set(fields) == set(vars(FactsMetrics(**fields)))


def test_a_planted_shift_stands_out_and_none_does_not() -> None:
    planted, none = (facts_fields(measured(shift), 5.0, 0) for shift in (-0.4, 0.0))
    assert planted["shift_ci_high"] < 0 and planted["over_random_ci_high"] < 0
    assert none["over_random_ci_low"] < 0 < none["over_random_ci_high"]
    assert none["p_random"] > 0.1
    first, second = latent_shifts(measured(-0.4), 5.0, 0)
    assert (first["latent"], second["latent"]) == (7, 9)
    assert first["shift_ci_high"] < 0 and first["p_random"] == 1 / 7
    assert second["p_random"] > 0.1


def test_the_same_seed_gives_the_same_numbers() -> None:
    one, two, other = (facts_fields(measured(0.2), 5.0, seed) for seed in (3, 3, 4))
    assert one == two != other
    assert one["shift"] == other["shift"]


def test_facts_of_one_question_are_drawn_together() -> None:
    many, few = (
        facts_fields(measured(questions=questions), 5.0, 0) for questions in (N, 3)
    )
    assert (many["shift_n"], few["shift_n"]) == (N, 3)
    assert many["shift"] == few["shift"]
    alone = facts_fields(measured(questions=1), 5.0, 0)
    assert alone["shift"] == many["shift"] and alone["shift_ci_low"] is None


def test_nothing_added_is_no_shift_and_no_evidence() -> None:
    before = scores(0)
    arms: list[Arm] = ["together", "latent", "random", "random_latents"]
    still = tuple(Pushed(arm, 0, 5.0, 0.0, before) for arm in arms)
    fields = facts_fields(measured(pushed=still), 5.0, 0)
    assert fields["shift"] == fields["over_random"] == fields["name_change"] == 0.0
    assert fields["shift_ci_low"] is fields["shift_ci_high"] is None
    assert fields["p_random"] == fields["p_random_latents"] == 1.0
    assert fields["prefers_later"] == fields["prefers_later_steered"]


def test_a_share_of_all_facts_is_not_certain() -> None:
    sure = NameScores(np.zeros(N), np.ones(N))
    fields = facts_fields(measured(before=sure), 5.0, 0)
    assert fields["prefers_later"] == fields["prefers_later_ci_high"] == 1.0
    assert fields["prefers_later_ci_low"] == pytest.approx(1 - np.log(40) / N)


def test_without_facts_or_controls_there_is_nothing() -> None:
    nothing = facts_fields(None, 5.0, 0)
    assert {nothing[name] for name in (*INTERVALS, *P_VALUES)} == {None}
    assert facts_summary(None, [5.0], 0) is None
    # an SAE may have no other alive latents
    alone = measured()
    alone = measured(
        pushed=tuple(one for one in alone.pushed if one.arm != "random_latents"),
        dated=(),
        at_later_date=None,
    )
    fields = facts_fields(alone, 5.0, 0)
    assert fields["shift_random_latents"] is fields["p_random_latents"] is None
    assert fields["date_effect"] is None and fields["shift"] is not None
    summary = facts_summary(alone, [5.0], 0)
    assert summary is not None and summary["questions"] == N
    assert json.loads(json.dumps(summary))["amounts"][0]["latents"][0]["latent"] == 7


def test_one_control_has_no_spread() -> None:
    fields = facts_fields(measured(0.3, controls=1), 5.0, 0)
    assert fields["shift_random"] is not None and fields["shift_random_ci_low"] is None
    assert fields["p_random"] == 0.5


def test_p_counts_both_sides_and_the_direction_itself() -> None:
    mine = np.array([2.0, 4.0])
    controls = np.array([[1.0, 1.0], [-3.0, -3.5], [0.0, 0.0]])
    assert p_value(mine, controls) == 0.5
    assert facts_oracle.p_value(3.0, [1.0, -3.25, 0.0]) == 0.5
