"""The study of schedules: coefficients by hand, planted comparisons, a tiny run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from eval_recipes.cross_seed.roles import Role
from eval_recipes.statistics.seeds import over_pairs
from eval_recipes.studies import annealing
from eval_recipes.studies.annealing import (
    COMPARED,
    CONSTANT,
    MULTIPLES,
    SCHEDULES,
    SEEDS,
    STUDY,
    compared,
    constant,
    schedule,
)
from eval_recipes.studies.framework.definition import Plan, Scale, Stage
from eval_recipes.studies.framework.run import run_study
from eval_recipes.width_control.result_groups import ResultGroup
from saereg_plugin.config import Schedule
from saereg_plugin.sweeps import SweepConfig
from saereg_plugin.sweeps.config import group_fields
from saereg_plugin.yaml_text import read_yaml
from tests.sweeps.tiny import BATCH, tiny_sweep

STEPS = 8
BY_HAND = {
    CONSTANT: [1, 1, 1, 1, 1, 1, 1, 1],
    "warm-up": [0, 0.25, 0.5, 0.75, 1, 1, 1, 1],
    "to-zero-at-half": [1, 0.75, 0.5, 0.25, 0, 0, 0, 0],
    "cosine": [1, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806],
}


@pytest.mark.parametrize("name", [CONSTANT, *SCHEDULES])
def test_coefficients_by_hand(name: str) -> None:
    made = Schedule(**schedule(name, STEPS))
    found = [made.value(1.0, step) for step in range(STEPS)]
    assert found == pytest.approx(BY_HAND[name], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "share"), [("warm-up", 0.75), ("to-zero-at-half", 0.25), ("cosine", 0.5)]
)
def test_mean_coefficient_is_what_the_page_says(name: str, share: float) -> None:
    made = Schedule(**schedule(name, 3000))
    mean = sum(made.value(1.0, step) for step in range(3000)) / 3000
    assert mean == pytest.approx(share, abs=1e-3)


def small_fields() -> dict[str, dict[str, Any]]:
    sweep = STUDY.plan("small").stages[0].sweep(pd.DataFrame())
    assert tuple(sweep.seeds) == SEEDS and len(SEEDS) == 5
    return group_fields(sweep)


def test_groups_differ_in_the_penalty_alone() -> None:
    fields = small_fields()
    assert list(fields) == [*(constant(m) for m in MULTIPLES), *SCHEDULES]
    bare = [{**each, "regularizers": []} for each in fields.values()]
    assert all(each == bare[0] for each in bare)
    assert fields["none"]["regularizers"] == []
    (unit,) = fields[CONSTANT]["regularizers"]
    for multiple in MULTIPLES[1:]:
        (penalty,) = fields[constant(multiple)]["regularizers"]
        assert penalty["coefficient"] == pytest.approx(multiple * unit["coefficient"])
    for name in SCHEDULES:
        (penalty,) = fields[name]["regularizers"]
        assert {k: v for k, v in penalty.items() if k != "schedule"} == {
            k: v for k, v in unit.items() if k != "schedule"
        }


PAIRS: list[tuple[int, int]] = list(combinations(SEEDS, 2))


def planted(
    name: str,
    coefficient: float,
    variances: Mapping[int, float],
    shared: Mapping[tuple[int, int], float],
) -> ResultGroup:
    role = Role(
        name=f"r/{name}",
        base="",
        d_sae=8,
        k=2,
        penalty="l2",
        coefficient=coefficient,
    )
    return ResultGroup(
        role=role,
        group=name,
        pairs={pair: {"seeds": pair, "shared": shared[pair]} for pair in PAIRS},
        over_latents={},
        single={"explained_variance": variances},
        variance_errors={},
    )


def family() -> list[ResultGroup]:
    """Constants whose shared share is 2 (.9 - explained variance) in each pair of seeds."""
    found: list[ResultGroup] = []
    for number, multiple in enumerate(MULTIPLES):
        variances = {seed: 0.9 - 0.02 * number - 0.001 * seed for seed in SEEDS}
        shared = {
            (a, b): 2 * (0.9 - (variances[a] + variances[b]) / 2) for a, b in PAIRS
        }
        found.append(planted(constant(multiple), multiple, variances, shared))
    return found


def scheduled(gain: Mapping[tuple[int, int], float], level: float) -> ResultGroup:
    variances = {seed: level - 0.001 * seed for seed in SEEDS}
    shared = {
        (a, b): 2 * (0.9 - (variances[a] + variances[b]) / 2) + gain[a, b]
        for a, b in PAIRS
    }
    return planted("cosine", 1.0, variances, shared)


def test_planted_gain_at_equal_variance_comes_out_exactly() -> None:
    gain: dict[tuple[int, int], float] = {
        pair: 0.05 + 0.001 * sum(pair) for pair in PAIRS
    }
    found = compared(family(), scheduled(gain, 0.87), "shared")
    assert found.values == pytest.approx(gain)
    interval = over_pairs(gain)
    assert (found.difference, found.low, found.high) == pytest.approx(
        (interval.value, interval.low, interval.high)
    )
    assert found.n == 10 and found.interval_over == "seed pairs"
    assert found.explained_variance == pytest.approx(0.868)


def test_no_gain_where_the_schedule_only_costs_less() -> None:
    found = compared(family(), scheduled(dict.fromkeys(PAIRS, 0.0), 0.893), "shared")
    assert found.difference == pytest.approx(0, abs=1e-12)


def test_outside_the_constants_range_there_is_no_value() -> None:
    found = compared(family(), scheduled(dict.fromkeys(PAIRS, 0.1), 0.95), "shared")
    assert found.difference is None and found.reason is not None
    assert "reach its explained variance" in found.reason


def test_some_pairs_outside_leave_no_interval() -> None:
    group = scheduled({pair: 0.1 + 0.01 * pair[0] for pair in PAIRS}, 0.87)
    outside = {**group.single["explained_variance"], 0: 0.99}
    changed = dataclasses.replace(group, single={"explained_variance": outside})
    found = compared(family(), changed, "shared")
    assert (found.low, found.high) == (None, None) and found.difference is not None
    assert (
        found.reason == "4 of 10 pairs of seeds have no value at its explained variance"
    )


def _tiny(_: pd.DataFrame) -> SweepConfig:
    steps = 6
    groups = annealing.groups(d_in=576, d_sae=64, k=8, steps=steps, k_annealing_steps=1)
    chosen = ("none", CONSTANT, "constant-x2", "cosine")
    # so strong that a few steps show it
    made = {
        name: {
            **groups[name],
            "regularizers": [
                {**penalty, "coefficient": 100 * penalty["coefficient"]}
                for penalty in groups[name]["regularizers"]
            ],
        }
        for name in chosen
    }
    return tiny_sweep(sae={}, groups=made, seeds=list(SEEDS), tokens=steps * BATCH)


def _plan(_: Scale) -> Plan:
    stage = Stage(
        "saes", _tiny, evals=("cross_seed",), compare=annealing.at_equal_variance
    )
    return Plan(stages=(stage,), settings="Tiny.", heldout_tokens=2048)


@pytest.mark.slow
def test_tiny_run_reports_every_figure_and_comparison(
    model_name: str, tmp_path: Path
) -> None:
    assert model_name
    tiny = dataclasses.replace(
        STUDY,
        plan=_plan,
        claims=lambda scale: [
            claim
            for claim in STUDY.claims(scale)
            if {claim.group, claim.other} <= {"none", CONSTANT, "cosine"}
        ],
    )
    run = run_study(tiny, "small", tmp_path)
    assert run.finished and run.failures == [] and run.stopped == []
    assert [(one.group, one.metric) for one in run.comparisons] == [
        ("cosine", metric) for metric in COMPARED
    ]
    report: Any = read_yaml(tmp_path / "results.json")
    assert len(report["comparisons"]) == len(COMPARED)
    table = (tmp_path / "table.md").read_text()
    assert "Further comparisons:" in table and annealing.KIND in table
    for title in ("explained variance", "alive share", "shared of alive"):
        assert title in table
    # a finished study trains nothing anew and says the same
    again = run_study(tiny, "small", tmp_path)
    assert [one.to_dict() for one in again.comparisons] == [
        one.to_dict() for one in run.comparisons
    ]
