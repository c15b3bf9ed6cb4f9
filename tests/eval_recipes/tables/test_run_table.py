"""The table a run ends with."""

from __future__ import annotations

import io

import pandas as pd
from rich.console import Console

from eval_recipes.results.differences import GroupDifference
from eval_recipes.results.files import SUMMARY_COLUMNS
from eval_recipes.results.headlines import RUN_HEADLINES, Metric
from eval_recipes.tables.cells import digits
from eval_recipes.tables.run_table import headline_metrics, print_table


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
    ]
    lines = printed(frame([row("a0", "base", 0, 0.8)]), differences).splitlines()
    verdicts = [line for line in lines if "l2 - base" in line]
    assert ["not distinguishable" in line for line in verdicts] == [False, True, True]


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
        for metric in (*RUN_HEADLINES, Metric("core", "corrected/more", "more"))
    ]
    assert headline_metrics(frame(rows)) == list(RUN_HEADLINES)
    (unnamed,) = headline_metrics(frame(rows[-1:]))
    assert unnamed.title == "more"
