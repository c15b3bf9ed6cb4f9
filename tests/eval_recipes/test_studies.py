"""The arithmetic of studies: choosing lambda, intervals, verdicts and the page they make."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t

from eval_recipes.context import Failure
from eval_recipes.report import GroupDifference
from eval_recipes.statistics import Interval
from eval_recipes.studies import report
from eval_recipes.studies.choice import largest_without_loss
from eval_recipes.studies.figures import (
    difference_of,
    figure_of,
    groups_of,
    judge_all,
    values_of,
)
from eval_recipes.studies.model import L0, VARIANCE, Plan, Published, Stage, Study
from eval_recipes.studies.running import StudyRun
from eval_recipes.studies.scales import SHARED, small_sweep
from eval_recipes.studies.verdicts import Claim, Direction, Outcome, judge, summary
from saereg_plugin.files import read_yaml
from tests.eval_recipes.planted_studies import planted_frame

# The rule for lambda


@given(
    baseline=st.floats(0, 1),
    candidates=st.dictionaries(
        st.floats(1e-6, 1e3), st.floats(-1, 1), min_size=1, max_size=8
    ),
)
def test_chosen_lambda_is_the_largest_that_costs_nothing(
    baseline: float, candidates: dict[float, float]
) -> None:
    choice = largest_without_loss("k32", baseline, candidates)
    larger = [value for value in candidates if value > choice.coefficient]
    if choice.within:
        assert candidates[choice.coefficient] >= baseline
        assert all(candidates[value] < baseline for value in larger)
    else:
        assert choice.coefficient == min(candidates)
        assert all(variance < baseline for variance in candidates.values())


def test_equal_variance_counts_as_no_loss() -> None:
    choice = largest_without_loss("k32", 0.8, {0.1: 0.8, 1.0: 0.79999})
    assert (choice.coefficient, choice.within) == (0.1, True)
    assert choice.text() == (
        "k32: 0.1, the largest whose explained variance is at least the baseline's "
        "(0.8000; 0.1: 0.8000, 1: 0.8000)."
    )


def test_says_so_if_every_lambda_costs_variance() -> None:
    choice = largest_without_loss("k32", 0.9, {0.1: 0.8, 1.0: 0.7})
    assert (choice.coefficient, choice.within) == (0.1, False)
    assert "no candidate reaches" in choice.text()
    assert choice.to_dict()["candidates"][0] == {
        "coefficient": 0.1,
        "explained_variance": 0.8,
    }


# Verdicts


def claim(direction: Direction, margin: float = 0.0) -> Claim:
    return Claim(figure="L0", group="a", other="b", direction=direction, margin=margin)


@pytest.mark.parametrize(
    ("direction", "low", "high", "outcome"),
    [
        ("higher", 0.1, 0.3, "held"),
        ("higher", -0.3, -0.1, "opposite"),
        ("higher", -0.1, 0.3, "undecided"),
        ("higher", 0.0, 0.3, "undecided"),
        ("lower", -0.3, -0.1, "held"),
        ("lower", 0.1, 0.3, "opposite"),
        ("lower", -0.1, 0.3, "undecided"),
        ("not_lower", -0.04, 0.3, "held"),
        ("not_lower", -0.06, 0.3, "undecided"),
        ("not_lower", -0.3, -0.06, "opposite"),
        ("not_lower", -0.3, -0.04, "undecided"),
        ("not_higher", -0.3, 0.04, "held"),
        ("not_higher", -0.3, 0.06, "undecided"),
        ("not_higher", 0.06, 0.3, "opposite"),
    ],
)
def test_verdict_follows_from_the_interval(
    direction: Direction, low: float, high: float, outcome: Outcome
) -> None:
    margin = 0.05 if direction.startswith("not") else 0.0
    found = judge(claim(direction, margin), Interval((low + high) / 2, low, high, 3))
    assert found.outcome == outcome


@given(
    value=st.floats(-1, 1),
    half=st.floats(1e-6, 1),
    margin=st.floats(0, 0.5),
    pair=st.sampled_from([("higher", "lower"), ("not_higher", "not_lower")]),
)
def test_verdicts_are_symmetric(
    value: float, half: float, margin: float, pair: tuple[Direction, Direction]
) -> None:
    def of(direction: Direction, middle: float) -> Outcome:
        found = Interval(middle, middle - half, middle + half, 3)
        return judge(claim(direction, margin), found).outcome

    assert of(pair[0], value) == of(pair[1], -value)


def test_words_name_groups_numbers_and_what_came_of_it() -> None:
    held = judge(claim("higher"), Interval(0.2, 0.1, 0.3, 3))
    assert held.sentence == (
        "Held here: L0 is higher with a than with b (difference .200, 95 % interval .100 to "
        ".300, n = 3)."
    )
    against = judge(claim("higher"), Interval(-0.2, -0.3, -0.1, 3))
    assert against.sentence.startswith("Did not hold here, the opposite did: L0 is")
    open_ = judge(claim("not_lower", 0.01), Interval(0.0, -0.3, 0.1, 3))
    assert open_.sentence.startswith(
        "Not decided here: L0 is not lower with a than with b by more than .010 ("
    )
    equal = judge(claim("lower"), Interval(0.0, None, None, 3, "all values are equal"))
    assert "n = 3, no interval: all values are equal" in equal.sentence
    missing = judge(claim("lower"), None)
    assert (missing.outcome, missing.to_dict()["difference"]) == ("missing", None)
    assert summary([held, against, open_, equal, missing]) == (
        "Of 5 statements 1 held here, of 1 the opposite, 2 could not be decided, 1 not measured."
    )
    assert summary([]) == "Nothing was claimed."


# Figures


def test_group_mean_has_students_interval_over_seeds() -> None:
    frame = planted_frame({"a": {VARIANCE: [0.8, 0.82, 0.87]}})
    found = figure_of(frame, "a", VARIANCE)
    assert found is not None
    mean = (0.8 + 0.82 + 0.87) / 3
    spread = math.sqrt(sum((v - mean) ** 2 for v in (0.8, 0.82, 0.87)) / 2)
    half = float(student_t.ppf(0.975, 2)) * spread / math.sqrt(3)
    assert (found.value, found.low, found.high, found.n) == (
        pytest.approx(mean),
        pytest.approx(mean - half),
        pytest.approx(mean + half),
        3,
    )
    assert figure_of(frame, "a", L0) is None
    assert figure_of(frame, "b", VARIANCE) is None
    assert groups_of(frame) == ["a"]


def test_differences_are_paired_by_seed() -> None:
    frame = planted_frame(
        {"a": {L0: [10.0, 20.0, 30.0]}, "b": {L0: [9.0, 19.1, 28.9, 7.0]}}
    )
    found = difference_of(frame, claim("higher"), L0, [])
    assert found is not None
    assert found.n == 3
    assert found.value == pytest.approx(1.0)
    # unpaired, spreads of 10 would hide it
    assert judge(claim("higher"), found).outcome == "held"
    missing: Any = frame.loc[frame["group"] == "a"]
    assert difference_of(missing, claim("higher"), L0, []) is None


def test_values_that_are_missing_are_not_counted() -> None:
    frame = planted_frame({"a": {L0: [1.0, math.nan, 3.0]}})
    assert values_of(frame, "a", L0) == {0: 1.0, 2: 3.0}


def test_figures_of_pairs_take_the_cross_seed_differences() -> None:
    frame = planted_frame({"a": {SHARED: [0.2, 0.3]}, "b": {SHARED: [0.1, 0.1]}})
    shared = Claim(figure=SHARED.title, group="a", other="b", direction="higher")
    item = GroupDifference("shared", "b", "a", -0.15, -0.2, -0.1, 1)
    other = GroupDifference("shared", "b", "c", 9.0, 8.0, 10.0, 1)
    found = difference_of(frame, shared, SHARED, [other, item])
    assert found == Interval(0.15, 0.1, 0.2, 1)
    (verdict,) = judge_all(frame, [shared], [SHARED], [item])
    assert verdict.outcome == "held"
    assert difference_of(frame, shared, SHARED, [other]) is None


# The page

PLANTED = {
    "plain": {VARIANCE: [0.80, 0.81, 0.82], L0: [32.0, 32.0, 32.0]},
    "better": {VARIANCE: [0.90, 0.91, 0.93], L0: [32.0, 32.0, 32.0]},
}


def planted_run(frame: pd.DataFrame) -> StudyRun:
    higher = Claim(
        figure=VARIANCE.title, group="better", other="plain", direction="higher"
    )
    plan = Plan(
        stages=(
            Stage("choice", lambda _: small_sweep({"a": {}}), in_table=False),
            Stage("saes", lambda _: small_sweep({"a": {}})),
        ),
        settings="Planted.",
    )
    study = Study(
        name="planted",
        paper="arXiv 0000.00000",
        summary="Nothing was trained.",
        plan=lambda _: plan,
        columns=(VARIANCE, L0, SHARED),
        claims=lambda _: [higher],
        published=(
            Published("better", "explained variance", 0.95, "another model"),
            Published("elsewhere", "KL score", 0.9, ""),
        ),
        notes=("It is small.",),
    )
    run = StudyRun(study, "small", plan, finished=True, frame=frame)
    run.choices.append(largest_without_loss("k32", 0.8, {0.1: 0.9}))
    run.stopped.append("x-seed0: stopped")
    run.failures.append(Failure("core", "y-seed0", "why"))
    return run


def test_page_has_table_published_numbers_verdicts_and_where_it_comes_from(
    tmp_path: Path,
) -> None:
    chosen = planted_frame({"candidate": {VARIANCE: [0.5]}}, stage="choice")
    run = planted_run(pd.concat([planted_frame(PLANTED), chosen]))
    text = report.write_report(run, tmp_path).read_text(encoding="utf-8")
    # the chosen stage and a column without values are not in the table
    assert "| group | seeds | explained variance | L0 |" in text
    assert "candidate" not in text
    assert re.search(r"\| better \| 3 \| \.913 \[\.875, \.951\] \| 32 \|", text)
    assert (
        "| better | explained variance | .950 | .913 [.875, .951] | another model |"
        in text
    )
    assert "| elsewhere | KL score | .900 | - |  |" in text
    assert "Of 1 statements 1 held here" in text
    assert "Held here: explained variance is higher with better than with plain" in text
    assert "k32: 0.1, the largest" in text
    assert "stopped: x-seed0" in text
    assert "core of y-seed0: why" in text
    assert "It is small." in text
    assert re.search(r"\d{4}-\d\d-\d\dT[\d:+]+, `.+`; python 3", text)

    found: Any = read_yaml(tmp_path / report.RESULTS)
    assert found["verdicts"][0]["outcome"] == "held"
    assert found["versions"]["sae-lens"]
    figure = found["groups"][0]["figures"]["explained variance"]
    assert [value["value"] for value in figure["values"]] == [0.8, 0.81, 0.82]
    assert len(pd.read_csv(tmp_path / report.CSV)) == len(run.frame)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(report.TABLE, report.RESULTS, report.CSV)
    }


def test_words_turn_with_the_numbers(tmp_path: Path) -> None:
    swapped = planted_frame({"plain": PLANTED["better"], "better": PLANTED["plain"]})
    text = report.write_report(planted_run(swapped), tmp_path).read_text()
    assert "Of 1 statements 0 held here, of 1 the opposite" in text
    assert "Did not hold here, the opposite did: explained variance is higher" in text
