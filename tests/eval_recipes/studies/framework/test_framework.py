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
from scipy.stats import ttest_1samp

from eval_recipes.report.figures.finding import read_further
from eval_recipes.results.differences import Difference, GroupDifference
from eval_recipes.results.subject import Failure
from eval_recipes.statistics.interval import NO_VARIATION
from eval_recipes.statistics.seeds import Interval
from eval_recipes.studies.framework import report
from eval_recipes.studies.framework.definition import (
    L0,
    SHARED,
    VARIANCE,
    Column,
    Plan,
    Published,
    Stage,
    Study,
    StudyRun,
    largest_without_loss,
    small_sweep,
)
from eval_recipes.studies.framework.report import (
    difference_of,
    figure_of,
    groups_of,
    judge_all,
    values_of,
)
from eval_recipes.studies.framework.verdicts import (
    Beside,
    Claim,
    Direction,
    Outcome,
    holm,
    judge,
    summary,
)
from eval_recipes.tables.passage import Passage
from eval_recipes.tables.table import digits
from saereg_plugin.yaml_text import read_yaml
from tests.eval_recipes.studies.planted import planted_frame

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
        "(0.8000; 0.1: 0.8000, 1: 0.8000; of one seed, without interval)."
    )
    assert not choice.at_edge


def test_says_so_if_the_largest_candidate_is_chosen() -> None:
    choice = largest_without_loss("k32", 0.8, {0.1: 0.8, 1.0: 0.81}, n_seeds=3)
    assert (choice.coefficient, choice.at_edge) == (1.0, True)
    assert choice.text().endswith(
        "of 3 seeds, without interval); it is at the edge of the grid: larger ones were not tried."
    )
    assert choice.to_dict()["at_edge"] is True
    alone = largest_without_loss("k32", 0.8, {0.1: 0.7})
    # no candidate passes: it is not the grid's upper edge that decided
    assert not alone.at_edge


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


@pytest.mark.parametrize(
    ("direction", "fitting"),
    [
        ("higher", [0.1]),
        ("lower", [-0.01, -0.1]),
        ("not_lower", [0.1, 0.0, -0.01]),
        ("not_higher", [0.0, -0.01, -0.1]),
    ],
)
def test_a_strict_claim_fits_no_equal_groups(
    direction: Direction, fitting: list[float]
) -> None:
    margin = 0.01 if direction.startswith("not_") else 0.0
    claim = Claim(figure="f", group="a", other="b", direction=direction, margin=margin)
    differences = [0.1, 0.0, -0.01, -0.1]
    assert [value for value in differences if claim.fits(value)] == fitting


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
    assert found.interval.n == 3
    assert found.interval.value == pytest.approx(1.0)
    assert [seeds for seeds, _ in found.values] == [(0,), (1,), (2,)]
    # unpaired, spreads of 10 would hide it
    assert judge(claim("higher"), found.interval).outcome == "held"
    missing: Any = frame.loc[frame["group"] == "a"]
    assert difference_of(missing, claim("higher"), L0, []) is None


def test_values_that_are_missing_are_not_counted() -> None:
    frame = planted_frame({"a": {L0: [1.0, math.nan, 3.0]}})
    assert values_of(frame, "a", L0) == {0: 1.0, 2: 3.0}


PAIRS = (((0, 1), -0.1), ((0, 2), -0.15), ((1, 2), 0.05))


def cross_seed(over: str | None, ends: tuple[float, float] | None) -> GroupDifference:
    """A difference "b" - "a" as the cross-seed evaluation gives it."""
    low, high = (None, None) if ends is None else ends
    return GroupDifference(
        "shared", "b", "a", -0.15, low, high, 900, over, PAIRS, "fewer than 5 seeds"
    )


SHARED_HIGHER = Claim(figure=SHARED.title, group="a", other="b", direction="higher")


@pytest.mark.parametrize(
    ("over", "ends"), [("latents", (-0.16, -0.14)), (None, None), (None, (-0.2, -0.1))]
)
def test_intervals_that_are_not_over_seeds_decide_nothing(
    over: str | None, ends: tuple[float, float] | None
) -> None:
    item = cross_seed(over, ends)
    frame = planted_frame({"a": {SHARED: [0.2, 0.3]}, "b": {SHARED: [0.1, 0.1]}})
    found = difference_of(frame, SHARED_HIGHER, SHARED, [item])
    assert found is not None
    assert found.interval == Interval(0.15, None, None, 3, "fewer than 5 seeds")
    assert found.values == (((0, 1), 0.1), ((0, 2), 0.15), ((1, 2), -0.05))
    (verdict,) = judge_all(frame, [SHARED_HIGHER], [SHARED], [item])
    assert (verdict.outcome, verdict.p, verdict.p_corrected) == (
        "undecided",
        None,
        None,
    )
    assert verdict.sentence == (
        "Not decided here: shared is higher with a than with b (difference .150, n = 3, no interval: "
        "fewer than 5 seeds; pairs of seeds: 0-1: .100, 0-2: .150, 1-2: -.050; 2 of 3 on the claimed "
        "side)."
    )
    assert verdict.to_dict()["values"][2] == {"seeds": [1, 2], "difference": -0.05}


def test_intervals_over_pairs_of_seeds_decide() -> None:
    frame = planted_frame({"a": {SHARED: [0.2, 0.3]}, "b": {SHARED: [0.1, 0.1]}})
    item = cross_seed("seed pairs", (-0.2, -0.1))
    other = GroupDifference("shared", "b", "c", 9.0, 8.0, 10.0, 3, "seed pairs", PAIRS)
    found = difference_of(frame, SHARED_HIGHER, SHARED, [other, item])
    assert found is not None
    assert found.interval == Interval(0.15, 0.1, 0.2, 3)
    # three pairs, but three seeds: two degrees of freedom
    assert found.freedom == 2
    (verdict,) = judge_all(frame, [SHARED_HIGHER], [SHARED], [item])
    assert verdict.outcome == "held"
    error = 0.05 / float(student_t.ppf(0.975, 2))
    expected = 2 * float(student_t.sf(0.15 / error, 2))
    assert verdict.p == pytest.approx(expected)
    assert difference_of(frame, SHARED_HIGHER, SHARED, [other]) is None


def test_a_margin_may_be_a_share_of_the_other_group() -> None:
    outcomes: list[str] = []
    for size in (1.0, 0.01):
        frame = planted_frame(
            {
                "a": {VARIANCE: [0.89 * size, 0.9 * size, 0.91 * size]},
                "b": {VARIANCE: [size] * 3},
            }
        )
        claims = [
            VARIANCE.claim("a", "not_lower", "b", margin_share=share)
            for share in (0.2, 0.01)
        ]
        verdicts = judge_all(frame, claims, [VARIANCE])
        outcomes += [verdict.outcome for verdict in verdicts]
        assert f"by more than 20 % of the latter ({digits(size / 5)})" in (
            verdicts[0].sentence
        )
        assert verdicts[0].to_dict()["margin"] == pytest.approx(size / 5)
    assert outcomes == ["held", "opposite"] * 2


# p-values and their correction


@given(
    values=st.lists(st.floats(-1, 1), min_size=2, max_size=6),
    bound=st.floats(-0.5, 0.5),
)
def test_p_value_is_that_of_the_t_test(values: list[float], bound: float) -> None:
    frame = planted_frame(
        {"a": {L0: [value + 7 for value in values]}, "b": {L0: [7.0] * len(values)}}
    )
    found = difference_of(frame, claim("higher"), L0, [])
    assert found is not None
    p, (_, low, high, *_) = found.p_value(bound), found.interval
    if low is None or high is None or high - low < 1e-6:
        return
    assert p is not None
    test: Any = ttest_1samp(values, bound)
    assert p == pytest.approx(float(test.pvalue), rel=1e-4, abs=1e-9)
    if abs(bound - low) > 1e-6 and abs(bound - high) > 1e-6:
        assert (p < 0.05) == (not low < bound < high)


@given(st.lists(st.floats(0, 1), max_size=7))
def test_holm_is_the_step_down_of_its_definition(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert len(corrected) == len(p_values)
    for level in (0.01, 0.05, 0.5):
        # reject the smallest as long as it is below level / number left
        left, rejected = sorted(range(len(p_values)), key=lambda i: p_values[i]), set()
        while left and p_values[left[0]] * len(left) < level:
            rejected.add(left.pop(0))
        assert {i for i, p in enumerate(corrected) if p < level} == rejected


def test_outcomes_that_do_not_survive_correction_say_so() -> None:
    frame = planted_frame(
        {
            # differences of mean 1: t of 5.0 and of 57.7 on two degrees of freedom
            "weak": {L0: [0.6, 1.1, 1.3], VARIANCE: [0.6, 1.1, 1.3]},
            "strong": {L0: [0.97, 1.0, 1.03], VARIANCE: [-1.0, 0.1, 1.0]},
            "plain": {L0: [0.0, 0.0, 0.0], VARIANCE: [0.0, 0.0, 0.0]},
        }
    )
    claims = [
        Claim(figure=figure.title, group=group, other="plain", direction="higher")
        for figure in (L0, VARIANCE)
        for group in ("weak", "strong")
    ]
    verdicts = judge_all(frame, claims, [L0, VARIANCE])
    assert [verdict.outcome for verdict in verdicts] == [
        *("held", "held"),
        *("held", "undecided"),
    ]
    assert [verdict.survives for verdict in verdicts] == [False, True, False, None]
    weak, strong = verdicts[:2]
    assert weak.p is not None
    assert weak.p_corrected is not None
    assert weak.p_corrected == pytest.approx(3 * weak.p)
    assert 0.02 < weak.p < 0.05 < weak.p_corrected
    assert weak.sentence.startswith(
        "Held here, but not after correction: L0 is higher with weak"
    )
    assert strong.sentence.startswith("Held here: L0 is higher with strong")
    assert re.search(r"p = 0\.0003, corrected 0\.0012\)\.$", strong.sentence)
    assert summary(verdicts) == (
        "Of 4 statements 3 (1 after correction) held here, of 0 the opposite, 1 could not be decided."
    )
    found = weak.to_dict()
    assert found["survives_correction"] is False
    assert found["p_corrected"] == weak.p_corrected


# Groups that are not matched


def test_a_claim_says_in_what_else_the_groups_differ() -> None:
    frame = planted_frame(
        {
            "a": {VARIANCE: [0.7, 0.72, 0.71], L0: [100.0, 104.0, 102.0]},
            "b": {VARIANCE: [0.6, 0.61, 0.62], L0: [150.0, 152.0, 154.0]},
            "c": {VARIANCE: [0.5, 0.51, 0.53], L0: [100.0, 104.2, 102.0]},
            # the means are equal within 1 %, but three seeds do not show it
            "d": {VARIANCE: [0.5, 0.51, 0.53], L0: [103.0, 103.0, 99.0]},
        }
    )
    claims = [
        Claim(
            figure=VARIANCE.title,
            group="a",
            other=other,
            direction="higher",
            beside=L0.title,
        )
        for other in ("b", "c", "d")
    ]
    first, second, third = judge_all(frame, claims, [VARIANCE, L0])
    assert first.outcome == second.outcome == third.outcome == "held"
    assert re.search(
        r"\)\. Unmatched: L0 differs by more than 1% \(102 against 152, difference -50, "
        r"95 % interval -55\.0 to -45\.0\), which alone can move the figure\.$",
        first.sentence,
    )
    assert second.sentence.endswith(
        " Matched: L0 is equal within 1% (102 against 102, difference -.067, 95 % interval -.354 "
        "to .220)."
    )
    assert re.search(
        r" Not shown to be matched: L0 may be equal within 1% or not \(102 against 102, difference "
        r"\.333, 95 % interval -7\.26 to 7\.92\)\.$",
        third.sentence,
    )
    assert [v.to_dict()["beside"]["match"] for v in (first, second, third)] == [
        *("unmatched", "matched", "not shown")
    ]
    missing: Any = frame.loc[frame["metric"] != L0.metric]
    (alone,) = judge_all(missing, claims[:1], [VARIANCE, L0])
    assert (alone.outcome, alone.beside) == ("held", None)


@pytest.mark.parametrize(
    ("low", "high", "match"),
    [
        (-1.0, 1.0, "matched"),
        (-0.9, 0.1, "matched"),
        (0.3, 0.9, "matched"),
        (-1.1, 0.1, "not shown"),
        (0.1, 1.1, "not shown"),
        (-3.0, 3.0, "not shown"),
        (1.1, 2.0, "unmatched"),
        (-2.0, -1.1, "unmatched"),
    ],
)
def test_the_whole_interval_decides_whether_groups_are_matched(
    low: float, high: float, match: str
) -> None:
    middle = (low + high) / 2
    found = Beside("L0", 100.0, 100.0 - middle, Interval(middle, low, high, 3))
    # 1 % of the larger value: the edges hold for 100 against less
    assert found._replace(other=99.0).match == match
    assert f"95 % interval {digits(low)} to {digits(high)}" in found.sentence


def test_values_that_do_not_vary_are_matched_by_themselves() -> None:
    """L0 of TopK is k in every seed; one seed, though, shows nothing."""
    same = Interval(0.0, None, None, 3, NO_VARIATION)
    found = Beside("L0", 32.0, 32.0, same)
    assert found.match == "matched"
    assert found.sentence == (
        f"Matched: L0 is equal within 1% (32 against 32, difference 0, no interval: {NO_VARIATION})."
    )
    assert Beside("L0", 64.0, 32.0, same._replace(value=32.0)).match == "unmatched"
    one = same._replace(reason="one seed has no spread")
    assert Beside("L0", 32.0, 32.0, one).match == "not shown"


def test_differences_that_only_rounding_makes_vary_decide_nothing() -> None:
    """.2 in each of three seeds, but for 1e-14: it would give a p of next to 0 for nothing."""
    a, b = [0.3, 0.7, 1000.1], [0.1, 0.5, 999.9]
    frame = planted_frame({"a": {L0: a}, "b": {L0: b}})
    assert len({x - y for x, y in zip(a, b)}) > 1
    (verdict,) = judge_all(frame, [claim("higher")], [L0])
    assert verdict.difference is not None
    assert (verdict.outcome, verdict.p) == ("undecided", None)
    assert verdict.difference.reason == NO_VARIATION
    # an interval from elsewhere, too
    thin = Difference(Interval(1.0, 1.0, 1.0 + 1e-15, 3), PAIRS)
    assert thin.p_value(0.0) is None
    assert Difference(Interval(1.0, 1.0, 1.0, 3), PAIRS).p_value(0.0) is None


def test_figures_of_the_cross_seed_evaluation_say_why_they_have_no_interval() -> None:
    alive = Column("cross_seed", "heldout/alive", "alive")
    stable = Column("cross_seed", "stability/stable_fraction", "stable")
    frame = planted_frame(
        {
            "a": {SHARED: [0.2, 0.3], alive: [256.0, 256.0], stable: [0.1, 0.2]},
            "b": {alive: [250.0]},
        }
    )
    # as the evaluation writes it: figures of the group, without ends
    own: Any = frame.drop_duplicates(["group", "metric"]).copy()
    own["metric"] = "group/" + own["metric"].str.split("/").str[-1]
    frame = pd.concat([frame, own], ignore_index=True)

    def reason(group: str, column: Column) -> str | None:
        found = figure_of(frame, group, column)
        assert found is not None
        assert (found.low, found.high) == (None, None)
        return found.reason

    assert reason("a", SHARED) == "few seeds: pairs have no interval"
    assert reason("a", alive) == NO_VARIATION
    assert reason("b", alive) == "one seed has no spread"
    assert reason("a", stable) == (
        "the SAEs of a group share their pairs, so seeds are no replicates"
    )


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
        published=lambda _: (
            Published("better", "explained variance", 0.95, "another model"),
            Published("elsewhere", "KL score", 0.9, ""),
        ),
        notes=("It is small.",),
    )
    run = StudyRun(study, "small", plan, finished=True, frame=frame)
    run.choices.append(largest_without_loss("k32", 0.8, {0.1: 0.9}))
    run.stopped.append("x-seed0: stopped")
    run.pairs_across_documents["saes"] = {"crossing": 5, "pairs": 400}
    run.failures.append(Failure("core", "y-seed0", "why"))
    return run


def test_the_report_page_reads_what_a_study_writes(tmp_path: Path) -> None:
    run = planted_run(planted_frame(PLANTED))
    figure = Interval(0.5, 0.25, 0.75, 3)
    run.passages.append(Passage("More:", ["one"], ["SAE", "figure"], [["a", figure]]))
    text = report.write_report(run, tmp_path).read_text(encoding="utf-8")
    assert "More:\n\n- one\n\n| SAE | figure |" in text
    (found,) = read_further(tmp_path).found
    part = found.part
    (groups,) = part.tables
    assert [row[2].text for row in groups.rows] == [
        ".810 [.785, .835]",
        ".913 [.875, .951]",
    ]
    assert [name for name, _ in part.definitions] == ["explained variance", "L0"]
    shown = [one.table.rows for one in part.passages if one.table is not None]
    # the passage, the chosen coefficient, the published numbers
    assert [len(rows) for rows in shown] == [1, 1, 2]
    assert shown[0][0][1].text == ".500 [.250, .750]"
    (held,) = [one for one in part.passages if one.text.startswith("What held.")]
    assert "higher with better than with plain" in held.points[0]
    assert part.notes == ["It is small."]


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
    assert "Of 1 statements 1 (1 after correction) held here" in text
    assert "Held here: explained variance is higher with better than with plain" in text
    assert "k32: 0.1, the largest" in text
    assert "stopped: x-seed0" in text
    assert "core of y-seed0: why" in text
    assert "It is small." in text
    assert "Holm's method for the 1 statements that have an interval" in text
    assert (
        "Pairs of neighbouring tokens across documents, stage saes: 5 of 400 (1.25%)."
        in text
    )
    assert re.search(r"\d{4}-\d\d-\d\dT[\d:+]+, `.+`; python 3", text)

    found: Any = read_yaml(tmp_path / report.RESULTS)
    assert found["verdicts"][0]["outcome"] == "held"
    assert found["versions"]["sae-lens"]
    assert found["pairs_across_documents"]["saes"] == {"crossing": 5, "pairs": 400}
    figure = found["groups"][0]["figures"]["explained variance"]
    assert [value["value"] for value in figure["values"]] == [0.8, 0.81, 0.82]
    assert len(pd.read_csv(tmp_path / report.CSV)) == len(run.frame)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(report.TABLE, report.RESULTS, report.CSV)
    }


def test_words_turn_with_the_numbers(tmp_path: Path) -> None:
    swapped = planted_frame({"plain": PLANTED["better"], "better": PLANTED["plain"]})
    text = report.write_report(planted_run(swapped), tmp_path).read_text()
    assert "Of 1 statements 0 held here, of 1 (1 after correction) the opposite" in text
    assert "Did not hold here, the opposite did: explained variance is higher" in text
