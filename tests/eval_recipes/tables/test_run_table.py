"""The table a run ends with, and its differences in words."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console

from eval_recipes.results.differences import GroupDifference, minus_plain
from eval_recipes.results.files import SUMMARY_COLUMNS
from eval_recipes.results.headlines import RUN_COLUMNS, Metric, headline_metrics
from eval_recipes.tables.run_table import print_table, read_differences
from eval_recipes.tables.table import digits


def frame(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    # the last column says whether a result is outdated
    whole = [(*row, False) for row in rows]
    return pd.DataFrame(whole, columns=pd.Index(SUMMARY_COLUMNS))


def printed(
    table: pd.DataFrame, differences: list[GroupDifference] | None = None
) -> str:
    console = Console(file=io.StringIO(), width=90)
    print_table(table, console, differences or [])
    return console.file.getvalue()  # type: ignore[attr-defined]


EQUAL = (((0,), -16.0), ((1,), -16.0))
UNEQUAL = (((0, 1), -16.0), ((0, 2), 2.0))
METRIC = "corrected/explained_variance"


def columns_of(group: str, seed: int | None, sae_id: str) -> tuple[object, ...]:
    return ("r", group, seed, sae_id, "topk", "none")


def row(sae_id: str, group: str, seed: int | None, value: float) -> tuple[object, ...]:
    return (*columns_of(group, seed, sae_id), "core", METRIC, value, 0.1, 0.9, 12)


def test_shows_every_sae_and_the_groups_interval_over_seeds():
    text = printed(frame([row("a0", "[base]", 0, 0.8), row("a1", "[base]", 1, 0.7)]))
    assert "a0" in text
    assert "[base]" in text
    # Student's t with one degree of freedom: .75 +- 12.71 * .05.
    assert ".750 [.115, 1.39]" in text


def test_a_single_seed_has_no_interval():
    text = printed(frame([row("a0", "base", None, 0.8)]))
    assert ".800" in text
    assert "[.1" not in text


def test_a_figure_of_the_whole_group_takes_precedence():
    metrics = [("shared/shared", 0.2, 0.1, 0.3), ("group/shared", 0.25, 0.2, 0.3)]
    rows = [
        (*columns_of("base", seed, f"a{seed}"), "cross_seed", name, *values, 3)
        for seed in (0, 1)
        for name, *values in metrics
    ]
    assert ".250 [.200, .300]" in printed(frame(rows))


def test_differences_carry_a_verdict():
    differences = [
        GroupDifference("shared", "l2", "base", 0.1, 0.05, 0.15, 10, "seed pairs"),
        GroupDifference("c_dec", "l2", "base", 0.1, -0.05, 0.25, 5, "seeds"),
        GroupDifference("l0", "l2", "base", 0.1, None, None, None),
        GroupDifference("alive", "l2", "base", -16.0, None, None, 2, None, EQUAL),
        GroupDifference("alive", "l2", "base", -16.0, None, None, 1, None, EQUAL[:1]),
        GroupDifference("alive", "l2", "base", -7.0, None, None, 2, None, UNEQUAL),
    ]
    lines = printed(frame([row("a0", "base", 0, 0.8)]), differences).splitlines()
    verdicts = [" ".join(line.split()) for line in lines if "l2 - base" in line]
    ends = [
        "differs",
        "not distinguishable",
        "no interval",
        "all equal",
        "too few seeds; each: -16",
        "too few seeds; each:",
    ]
    assert [v for v, end in zip(verdicts, ends) if not v.endswith(end)] == []
    assert len(verdicts) == len(ends)


def test_differences_from_unregularised_groups_stand_alone():
    rows = [row(f"{name}0", name, 0, 0.8) for name in ("none", "a", "b")]
    rows = [
        (*one[:5], "none" if one[1] == "none" else "l2 1", *one[6:]) for one in rows
    ]
    shown = [
        GroupDifference("l0", name, "none", 0.1, 0, 1, 5, "seeds") for name in "ab"
    ]
    left = GroupDifference("l0", "a", "b", 0.1, 0, 1, 5, "seeds")
    text = printed(frame(rows), [*shown, left])
    assert "a - none" in text and "b - none" in text
    assert "a - b" not in text
    assert "1 more pair of groups is compared in the result files." in text
    assert "a - b" in printed(frame(rows[1:]), [left])


def test_the_unregularised_group_is_what_is_subtracted():
    given = GroupDifference("l0", "none", "l2", 1.0, 0.5, 2.0, 5, "seeds", EQUAL)
    (turned,) = minus_plain([given], {"none"})
    assert (turned.group, turned.other, turned.difference) == ("l2", "none", -1.0)
    assert (turned.ci_low, turned.ci_high) == (-2.0, -0.5)
    assert minus_plain([turned], {"none"}) == [turned]


def test_too_few_seeds_list_their_pairs():
    values = (((0, 1), 0.125), ((0, 2), 0.25), ((1, 2), 0.5))
    difference = GroupDifference(
        "shared", "l2", "base", 0.29, 0.28, 0.3, 6144, "latents", values
    )
    text = printed(frame([row("a0", "base", 0, 0.8)]), [difference])
    words = " ".join(text.split())
    for part in ("6144 latents", "too few seeds", ".125", ".250", ".500"):
        assert part in words
    assert "differs" not in text


def test_a_group_figure_that_is_not_defined_is_not_made_of_its_saes():
    metrics = [("shared/shared", 0.2), ("group/shared", float("nan"))]
    rows = [
        (
            *columns_of("base", seed, f"a{seed}"),
            "cross_seed",
            name,
            value,
            None,
            None,
            3,
        )
        for seed in (0, 1)
        for name, value in metrics
    ]
    groups = printed(frame(rows)).split("Groups")[1]
    assert ".200" not in groups


def test_what_chance_reaches_is_printed():
    metrics = [("baseline/shared", (0.0, 0.0)), ("baseline/mean_max_cos", (0.25, 0.3))]
    rows = [
        (*columns_of(g, 0, f"{g}0"), "cross_seed", name, value, None, None, 3)
        for name, values in metrics
        for g, value in zip("ab", values, strict=True)
    ]
    said = " ".join(printed(frame(rows)).split())
    assert (
        "By chance, random SAEs of the same shape: shared 0, max cos .250 to .300."
        in said
    )
    assert "By chance" not in printed(frame([row("a0", "base", 0, 0.8)]))


def test_an_empty_folder_says_so():
    assert "No results" in printed(frame([]))


def test_digits_are_few():
    assert [digits(v) for v in (0.82349, 31.98, 4096.0, -0.5, 0.0, float("nan"))] == [
        ".823",
        "32.0",
        "4096",
        "-.500",
        "0",
        "-",
    ]


def test_every_headline_of_a_run_has_a_column():
    """Also a seventh, if there is one."""
    saes = columns_of("base", 0, "a0")
    rows = [
        (*saes, *metric.key, 0.5, None, None, None)
        for metric in (*RUN_COLUMNS, Metric("core", "corrected/more", "more"))
    ]
    assert headline_metrics(frame(rows)) == list(RUN_COLUMNS)
    (unnamed,) = headline_metrics(frame(rows[-1:]))
    assert unnamed.title == "more"


PAIRS, SEEDS = "seed pairs", "seeds"
HIGHER = GroupDifference("shared/shared", "l2", "none", 0.25, 0.125, 0.375, 10, PAIRS)
LOWER = GroupDifference(
    "explained_variance", "l2", "none", -0.01, -0.02, -0.005, 5, SEEDS
)
UNCLEAR = GroupDifference(
    "similarity/mean_max_cos", "l2", "none", 0.02, -0.01, 0.05, 10, PAIRS
)
NO_INTERVAL = GroupDifference("alive", "l2", "none", 12.0, None, None, 1)


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (
            HIGHER,
            "The share of latents that two seeds have in common is higher with l2 than "
            "with none (difference .250, 95 % interval .125 to .375 over 10 seed pairs).",
        ),
        (
            LOWER,
            "The explained variance on held-out text is lower with l2 than with none "
            "(difference -.010, 95 % interval -.020 to -.005 over 5 seeds).",
        ),
        (
            UNCLEAR,
            "The mean best cosine between two seeds' latents is not distinguishable between "
            "l2 and none (difference .020, 95 % interval -.010 to .050 over 10 seed pairs).",
        ),
        (
            NO_INTERVAL,
            "The number of latents that fire on held-out text: no interval (n = 1), so l2 and none "
            "are not distinguishable.",
        ),
    ],
)
def test_sentence(difference: GroupDifference, sentence: str) -> None:
    assert read_differences([difference], group="l2", other="none")[0] == sentence


def test_lower_reconstruction_and_fewer_latents_qualify_the_rest() -> None:
    fewer = GroupDifference("alive", "l2", "none", -600.0, -700.0, -500.0, 5, SEEDS)
    last = read_differences([HIGHER, LOWER, fewer], group="l2", other="none")[-1]
    assert last.startswith("l2 reconstructs less and uses fewer latents than none")
    assert "equal width" in last
    unqualified = read_differences([HIGHER, UNCLEAR], group="l2", other="none")
    assert not any("equal width" in sentence for sentence in unqualified)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (-0.5, 0.0)])
def test_interval_that_touches_zero_is_not_distinguishable(
    low: float, high: float
) -> None:
    item = GroupDifference("shared", "l2", "none", 0.25, low, high, 10, PAIRS)
    (sentence,) = read_differences([item], group="l2", other="none")
    assert "is not distinguishable" in sentence


def test_difference_the_other_way_round_is_turned() -> None:
    turned = [item.reversed() for item in (HIGHER, LOWER, UNCLEAR, NO_INTERVAL)]
    assert turned[0].difference == -0.25
    assert read_differences(turned, group="l2", other="none") == read_differences(
        [HIGHER, LOWER, UNCLEAR, NO_INTERVAL], group="l2", other="none"
    )


def test_order_is_fixed_and_other_groups_and_metrics_are_left_out() -> None:
    other = GroupDifference("shared", "l1", "none", 0.9, 0.8, 1.0, 10, PAIRS)
    unread = GroupDifference("geometry/c_dec", "l2", "none", 0.9, 0.8, 1.0, 10, PAIRS)
    sentences = read_differences(
        [NO_INTERVAL, other, unread, LOWER, HIGHER], group="l2", other="none"
    )
    assert [sentence.split(" that")[0][:12] for sentence in sentences] == [
        "The share of",
        "The explaine",
        "The number o",
        "l2 reconstru",
    ]
    assert ".900" not in "".join(sentences)
    assert read_differences([], group="l2", other="none") == []


def test_an_interval_over_latents_gives_no_verdict() -> None:
    values = (((0, 1), 0.25), ((0, 2), 0.125), ((1, 2), 0.5))
    item = GroupDifference(
        "shared", "l2", "none", 0.29, 0.28, 0.3, 6144, "latents", values
    )
    assert not item.distinguishable
    (sentence,) = read_differences([item], group="l2", other="none")
    assert sentence == (
        "The share of latents that two seeds have in common: l2 minus none is .290; pair by pair "
        ".250, .125, .500 (95 % interval .280 to .300 over 6144 latents). These are too few seeds "
        "for a verdict: an interval over latents says nothing about other seeds."
    )
    (turned,) = read_differences([item.reversed()], group="none", other="l2")
    assert "none minus l2 is -.290; pair by pair -.250, -.125, -.500" in turned
    # nor does one of which nobody knows what it is over
    unknown = GroupDifference("shared", "l2", "none", 0.29, 0.28, 0.3, 3)
    assert not unknown.distinguishable


def test_few_latents_qualify_nothing_without_a_verdict() -> None:
    fewer = GroupDifference("alive", "l2", "none", -9.0, -10.0, -8.0, 50, "latents")
    (sentence,) = read_differences([fewer], group="l2", other="none")
    assert "uses fewer latents" not in sentence
