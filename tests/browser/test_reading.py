"""Reading the page: its numbers, hostile text, small screens, no script, no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import t as student_t

from eval_recipes.cross_seed.stability import read_stability
from eval_recipes.report.latents.inputs import short
from eval_recipes.results.headlines import L0
from eval_recipes.tables.table import digits
from tests.browser.result_folders import (
    GROUP,
    LONG,
    NAME,
    RUN,
    SAE,
    STEERED,
    TOKENS,
)
from tests.browser.visits import OPEN_ALL, Visit, fragment, said

CELLS = """name => {
    const table = document.getElementById(name);
    const heads = [...table.tHead.rows[0].cells].map(head => head.title);
    const text = cell => cell.innerText.replace(/\\s+/g, " ").trim();
    return [...table.tBodies[0].rows].map(row =>
        Object.fromEntries([...row.cells].map((cell, i) => [heads[i] || i, text(cell)])));
}"""
"""Rows of a table as they are seen, by the metric that a head's note names."""


def test_the_page_opens_from_its_file_and_asks_for_nothing_else(
    plain: Path, visit: Callable[..., Visit]
) -> None:
    opened = visit(plain)
    page = opened.page
    for figure in page.locator("figure.plot").all():
        figure.scroll_into_view_if_needed()
        figure.locator("svg.main-svg").first.wait_for()
    assert page.locator("figure.plot").count() >= 4
    # any other request, a word on the console or an error would be noted in `trouble`
    assert opened.asked == [plain]


@pytest.mark.parametrize("name", ["core", "cross_seed", "autointerp"])
def test_numbers_on_the_page_are_those_of_the_summary(
    plain: Path, results: Path, visit: Callable[..., Visit], name: str
) -> None:
    summary = pd.read_csv(results / "summary.csv")
    page = visit(plain).page
    page.evaluate(OPEN_ALL)
    rows = page.evaluate(CELLS, f"{name}-saes")
    checked = 0
    for row in rows:
        mine = summary[(summary["sae_id"] == row["0"]) & (summary["eval"] == name)]
        for one in mine.to_dict("records"):
            if one["metric"] in row:
                assert row[one["metric"]] == _shown(one), one
                checked += 1
    assert len(rows) == len(set(summary.loc[summary["eval"] == name, "sae_id"]))
    assert checked >= len(rows)


def _shown(one: dict[Any, Any]) -> str:
    """A row of the summary in the page's few digits."""
    if pd.isna(one["value"]):
        return "-"
    ends = [one["low"], one["high"]]
    interval = "" if pd.isna(ends).any() else f" [{', '.join(map(digits, ends))}]"
    return digits(one["value"]) + interval


def test_the_pareto_table_and_plot_have_the_numbers_of_the_summary(
    plain: Path, results: Path, visit: Callable[..., Visit]
) -> None:
    summary = pd.read_csv(results / "summary.csv").set_index(["sae_id", "metric"])
    page = visit(plain).page
    facts = page.evaluate(
        "JSON.parse(document.getElementById('facts').textContent).pareto"
    )
    rows = page.evaluate(CELLS, "pareto-table")
    assert len(rows) == len(facts["points"]) == 6
    for row, point in zip(rows, facts["points"], strict=True):
        cells = [cell.replace("*", "") for cell in row.values()]
        assert cells[0] == point["sae"]
        l0 = summary.loc[(point["sae"], L0.metric)]["value"]
        assert (cells[2], point["l0"]) == (digits(l0), pytest.approx(l0))
        for cell, metric in zip(cells[3:], facts["metrics"], strict=True):
            name = metric["key"].partition("/")[2]
            one = summary.loc[(point["sae"], name)]
            assert cell == _shown(one.to_dict()), (point["sae"], name)
            drawn = point["values"][metric["key"]]
            ends = [one["value"], one["low"], one["high"]]
            # what is missing is null in the page
            assert drawn == [None if pd.isna(end) else end for end in ends]


def test_the_table_of_groups_has_means_over_seeds_and_the_evaluations_own_figures(
    plain: Path, results: Path, visit: Callable[..., Visit]
) -> None:
    summary = pd.read_csv(results / "summary.csv")
    page = visit(plain).page
    rows = {row["0"]: row for row in page.evaluate(CELLS, "groups-1")}
    for group in ("none", "l2"):
        row = next(row for name, row in rows.items() if name.startswith(group))
        shown = {head.partition(":")[0]: cell for head, cell in row.items()}
        mine = summary[summary["sae_id"].str.startswith(f"{group}-")]
        for name in ("core/corrected/explained_variance", "core/corrected/l0"):
            values = mine.loc[mine["metric"] == name.removeprefix("core/"), "value"]
            mean, error = values.mean(), values.sem() * student_t.ppf(0.975, 2)
            ends = f"[{digits(mean - error)}, {digits(mean + error)}]"
            assert shown[name] == f"{digits(mean)} {ends} 3 seeds"
        # of the whole group, without an interval: its pairs share seeds
        pairs = ", ".join(map(digits, (0.25, 0.375, 0.5)))
        assert shown["cross_seed/shared/shared"] == f".375 3 seed pairs: {pairs}"


def test_the_table_of_differences_has_those_of_the_results(
    plain: Path, results: Path, visit: Callable[..., Visit]
) -> None:
    rows = visit(plain).page.evaluate(CELLS, "differences")
    seen = {(row["0"], row["1"]): (row["2"], row["3"]) for row in rows}
    wanted: dict[tuple[str, str], tuple[str, str]] = {}
    for group, other in (("none", "l2"), ("l2", "none")):
        path = results / "cross_seed" / f"lab_{group}-seed0_eval_results.json"
        extra = json.loads(path.read_text())["eval_result_unstructured"]
        for one in extra["group_differences"]:
            ends = f"[{digits(one['ci_low'])}, {digits(one['ci_high'])}]"
            key = (one["metric"].partition("/")[2], f"{group} \u2212 {other}")
            over = f"{one['n']} {one['interval_over']}"
            wanted[key] = (f"{digits(one['difference'])} {ends}", over)
    assert seen
    assert {key: wanted[key] for key in seen} == seen


def test_the_downloaded_csv_is_the_summary(
    plain: Path, results: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(plain).page
    with page.expect_download() as started:
        page.get_by_role("link", name="summary.csv").click()
    saved = started.value
    assert saved.suggested_filename == "summary.csv"
    assert saved.path().read_text().strip() == (
        (results / "summary.csv").read_text().strip()
    )


def test_a_card_has_the_numbers_of_the_stability_table(
    plain: Path, results: Path, visit: Callable[..., Visit]
) -> None:
    (path,) = results.rglob("*l2-seed1_stability.parquet")
    page = visit(plain, fragment("l2-seed1", 8)).page
    row = read_stability(path).iloc[8]
    assert said(page.locator(".lat-facts div").first) == (
        f"Stability{round(row['stability'] * 2)} of 2"
    )
    for line, seed in zip(page.locator(".lat-match-head").all(), (0, 2), strict=True):
        cosines = [
            digits(short(row[f"{side}_similarity_{seed}"]) or 0.0)
            for side in ("decoder", "encoder")
        ]
        assert said(line) == (
            f"shared seed {seed}: l2-seed{seed} / {row[f'decoder_partner_{seed}']:.0f}, "
            f"decoder |cosine| {cosines[0]}, encoder |cosine| {cosines[1]}"
        )


def test_a_card_shows_the_match_and_the_steered_texts_next_to_their_controls(
    plain: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(plain, fragment("none-seed0", STEERED[0])).page
    sides = page.locator(".lat-sides").first.locator(".lat-side h5")
    assert sides.all_text_contents() == ["this latent", "none-seed1 / 5"]
    arms = page.locator(".lat-arms").first.locator(".lat-arm")
    assert [said(arm) for arm in arms.all()] == [
        "Steered steered at 5score .432, success, perplexity 12.3",
        "Random direction random at 5score .432, no success, perplexity 12.3",
        "Unsteered, drawn again unsteered at 9score .432, no success, perplexity 12.3",
    ]
    boxes = [arm.bounding_box() for arm in arms.all()]
    assert len({box["y"] for box in boxes if box}) == 1


def test_hostile_names_tokens_and_texts_are_shown_as_they_are_and_run_nothing(
    hostile: Path, visit: Callable[..., Visit]
) -> None:
    sae = f"{GROUP}-seed0".replace("\u202e", "\\u202e")
    opened = visit(hostile, fragment(sae, STEERED[0]))
    page = opened.page
    page.evaluate(OPEN_ALL)
    assert opened.title == " ".join(f"{sae} / {STEERED[0]}".split())
    tokens = page.locator(".lat-band").first.locator(".lat-tok").all_text_contents()
    assert set(tokens) == {shown or token for token, shown in TOKENS.items()}
    logits = page.locator(".lat-logits").first.locator("bdi").all_text_contents()
    # there every space is seen
    spaced = [token.replace(" ", "·") for token in TOKENS]
    seen = [shown or spaced[i] for i, shown in enumerate(TOKENS.values())]
    assert logits == [*seen, "b"]
    written = page.locator(".lat-written").all_text_contents()
    assert written[0] == f"{SAE}<b>\n\U0001f600"
    assert f" steered at 5{LONG}" in written
    assert SAE in page.locator("#saes tbody th").all_text_contents()
    for figure in page.locator("figure.plot").all():
        figure.scroll_into_view_if_needed()
        figure.locator("svg.main-svg").first.wait_for()
    assert page.evaluate("window.ran") is None
    assert page.locator("img, main script, main b b, svg[onload]").count() == 0
    assert page.locator("#plot-training-loss svg.main-svg").count() > 0
    assert RUN in page.content()


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("#provenance", ["model", "hook", "dataset", "corpus", "command", "created"]),
        ("#provenance", ["package", "version", "cause"]),
        (".lat-card", ["judge"]),
        ("#further", ["layer", "note"]),
    ],
)
def test_hostile_names_of_what_made_the_results_are_shown_as_they_are(
    hostile: Path, visit: Callable[..., Visit], place: str, names: list[str]
) -> None:
    sae = f"{GROUP}-seed0".replace("\u202e", "\\u202e")
    page = visit(hostile, fragment(sae, STEERED[0])).page
    text = said(page.locator(place))
    assert [name for name in names if NAME % name not in text] == []


def test_a_plot_names_a_hostile_sae_as_it_is_and_opens_its_latent(
    hostile: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(hostile).page
    figure = page.locator("#plot-stability-score")
    figure.scroll_into_view_if_needed()
    dot = figure.locator(".scatterlayer .trace").nth(1).locator(".point").first
    dot.wait_for()
    box = dot.bounding_box()
    assert box is not None
    at = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(at[0] - 1, at[1])
    page.mouse.move(*at)
    label = figure.locator(".hovertext .nums .line").first
    label.wait_for()
    assert label.text_content() == f"{SAE}/0"
    page.mouse.click(*at)
    page.locator(".lat-card h3", has_text=f"{SAE} / 0").wait_for()


def test_a_search_for_hostile_text_finds_it(
    hostile: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(hostile).page
    page.get_by_label("Search").fill(SAE)
    page.locator(".lat-count", has_text="3 latents of").wait_for()


@pytest.mark.parametrize("name", ["plain", "hostile", "inputs"])
def test_a_phone_scrolls_down_only(
    name: str, request: pytest.FixtureRequest, visit: Callable[..., Visit]
) -> None:
    path = request.getfixturevalue(name)
    page = visit(path, viewport={"width": 390, "height": 844}).page
    page.evaluate(OPEN_ALL)
    for figure in page.locator("figure.plot").all():
        figure.scroll_into_view_if_needed()
        figure.locator("svg.main-svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_without_a_script_tables_and_text_are_there(
    plain: Path, results: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(plain, java_script_enabled=False).page
    for name in ("saes", "groups-1", "differences", "pareto-table", "core-figures"):
        assert page.locator(f"#{name} tbody tr").first.is_visible()
    page.locator("#evaluation-core summary").first.click()
    row = page.locator("#core-saes tbody tr", has_text="none-seed1").first
    summary = pd.read_csv(results / "summary.csv")
    (l0,) = summary.loc[
        (summary["sae_id"] == "none-seed1")
        & (summary["metric"] == "corrected/l0")
        & (summary["eval"] == "core")
    ].to_dict("records")
    assert _shown(l0) in " ".join(row.inner_text().split())
    assert page.locator("noscript p").is_visible()
    # what needs a script is not shown
    assert not page.locator("#theme, .controls, figure.plot").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_is_that_of_the_system_until_it_is_chosen(
    plain: Path, visit: Callable[..., Visit], scheme: str
) -> None:
    page = visit(plain, color_scheme=scheme).page
    dark = "getComputedStyle(document.body).backgroundColor === 'rgb(21, 24, 27)'"
    assert page.evaluate(dark) is (scheme == "dark")
    page.locator("#theme").click()
    assert page.evaluate(dark) is (scheme == "light")
    page.reload()
    assert page.evaluate(dark) is (scheme == "light")
