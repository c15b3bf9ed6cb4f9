"""Figures of studies and commands on the report page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eval_recipes import cli
from eval_recipes.report.figures.definitions import definition
from eval_recipes.report.figures.finding import FORMATS, read_further
from eval_recipes.report.page import write_report
from eval_recipes.studies.catalogue import GRID_STUDIES
from saereg_plugin.errors import InputError
from tests.eval_recipes.report.figures.figure_files import (
    study_content,
    write_figures,
    write_layers,
    write_pool,
    write_revival,
    write_study,
)
from tests.eval_recipes.report.read_page import Element, Page
from tests.eval_recipes.report.result_files import write_all

HOSTILE = "<script>alert(1)</script>&amp;</td>\u202e\U0001f600"
DOCS = Path(__file__).parents[4] / "docs"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = write_figures(tmp_path_factory.mktemp("figures"))
    return Page(write_report(folder))


def cells(page: Page, table: str) -> list[list[str]]:
    rows = page.id(table).all("tbody")[0].all("tr")
    return [[said(cell) for cell in row.children] for row in rows]


def said(element: Element) -> str:
    return " ".join(element.text.split())


def heads(page: Page, table: str) -> list[str]:
    return [said(head) for head in page.id(table).all("thead")[0].all("th")]


def test_a_folder_without_results_of_evaluations_has_a_page(page: Page) -> None:
    assert "No evaluation has a result" in page.id("provenance").text
    assert page.alerts == []
    (title,) = page.root.all("h1")
    assert title.text.startswith("study finetune, scale small, pool, revive")


def test_every_kind_of_file_has_a_part_with_its_definition(page: Page) -> None:
    parts = page.id("further").all("article")
    assert [said(part.all("h3")[0]) for part in parts] == [
        *("study finetune, scale small", "pool", "revive", "distill", "layers"),
        "data",
    ]
    for part in parts:
        assert part.all("table") and "Definitions: docs/" in said(part)
    assert "Not found" not in page.id("further").text


def test_a_study_has_its_table_passages_and_statements(page: Page) -> None:
    assert heads(page, "further-1-groups") == ["group", "seeds", "CE gap"]
    assert cells(page, "further-1-groups") == [["l2", "2", ".500 [.250, .750]"]]
    assert cells(page, "further-1-seeds") == [["l2", "0", ".438"], ["l2", "1", ".562"]]
    assert cells(page, "further-1-passage-1") == [["l2-seed0", "-.500 [-.750, -.250]"]]
    text = said(page.id("further-1"))
    assert "Change by tuning" in text
    assert "Of 1 statements 1 held here. Held here: it is lower." in text
    assert "Source: arXiv 0000.00000." in text and "It is short." in text
    assert definition("behaviour", "figures/ce_gap") in text


def test_gains_are_next_to_those_of_the_control(page: Page) -> None:
    rows = cells(page, "further-3-mean")
    assert [row[1:] for row in rows] == [
        ["l2", ".250 [.188, .312]", "64"],
        ["l2", ".125 [.062, .188]", "64"],
    ]
    assert rows[0][0].startswith("variance by revival Explained variance of the")
    assert "The null" in rows[1][0]
    seeds = cells(page, "further-3-seeds")
    assert [row[-3:] for row in seeds[:2]] == [
        ["0", ".250 [.188, .312]", "64"],
        ["1", ".375 [.312, .438]", "64"],
    ]
    assert "l2: pathological; it helps." in said(page.id("further-3"))
    assert "latents32" in said(page.id("further-3"))


def test_a_pool_has_arms_nulls_and_single_saes(page: Page) -> None:
    assert cells(page, "further-2-pools") == [
        ["l2", "0, 1", "8", "13", "12", "11, 1"],
    ]
    assert [row[-4:-2] for row in cells(page, "further-2-arms")] == [
        ["pooled", "-"],
        ["control", "-"],
        ["pooled", "seeds"],
    ]
    assert [row[2] for row in cells(page, "further-2-saes")] == ["l2-seed0"]


def test_cores_have_what_chance_reaches(page: Page) -> None:
    over, kept = cells(page, "further-4-mean")
    assert over[0].startswith("variance over matched") and over[3] == "-"
    assert kept[2:4] == [".500", ".125"]
    (pair,) = cells(page, "further-4-seeds")
    assert pair[2] == "0-1"


def test_layers_and_orders_have_scores_next_to_their_nulls(page: Page) -> None:
    (row,) = page.rows("further-5-scores")
    assert said(row["score"]) == ".750 [.625, .875]"
    assert (said(row["chance"]), said(row["random decoder"])) == (".562", ".688")
    # what was not measured has no column
    assert "probe" not in row
    sae, tfidf = page.rows("further-6-scores")
    assert said(sae["held-out"]) == ".750 [.625, .875]"
    assert said(sae["shuffled labels"]) == ".500"
    assert said(tfidf["SAE minus this"]) == "-.250 [-.375, -.125]"
    assert cells(page, "further-6-latents") == [["quality", "3", ".500"]]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    page = Page(write_report(write_all(tmp_path / "results")))
    missing = said(page.id("further"))
    for form in FORMATS:
        assert f"{form.file} of saereg-bench {form.command}: {form.shows}" in missing
    assert "finetune" not in missing


def test_files_below_the_results_and_elsewhere_are_found_once(tmp_path: Path) -> None:
    results = write_all(tmp_path / "results")
    (results / "pooled").mkdir()
    inside = write_pool(results / "pooled" / "pool.json")
    (tmp_path / "revived").mkdir()
    outside = write_revival(tmp_path / "revived" / "revival.json")
    copy = Path(shutil.copy(outside, tmp_path / "revival-again.json"))
    further = read_further(results, [inside, outside.parent, copy])
    files = [one.file for one in further.found]
    # of the folder last: what was named is first
    assert sorted(files) == [
        "pooled/pool.json",
        "revived/revival.json",
        f"{tmp_path.name}/revival-again.json",
    ]
    assert {one.command for one in further.absent} == {
        *("study", "distill", "layers", "data"),
    }
    done = CliRunner().invoke(
        cli.app, ["report", str(results), "--figures", str(outside.parent)]
    )
    assert done.exit_code == 0, done.output
    page = Page(Path(done.stdout.strip()))
    titles = [said(one) for one in page.id("further").all("h3")]
    assert titles == ["revive", "pool"]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{", "is no JSON"),
        ("[]", "it lacks pools, rows, verdicts"),
        ('{"rows": [{"figure": "x"}], "verdicts": {}, "pools": {}}', "rows/0/group"),
        ('{"rows": [], "verdicts": {"l2": 5}, "pools": {}}', "verdicts/l2"),
        ('{"rows": NaN, "verdicts": {}, "pools": {}}', "is no JSON"),
    ],
)
def test_a_damaged_file_is_an_alert_and_an_error_where_it_was_named(
    tmp_path: Path, content: str, cause: str
) -> None:
    results = write_all(tmp_path / "results")
    path = results / "pool.json"
    path.write_text(content)
    said_first, *_ = Page(write_report(results)).alerts
    assert said_first.startswith("Error") and "pool.json" in said_first
    assert cause in said_first
    with pytest.raises(InputError, match=cause):
        write_report(results, figures=[path])


def test_a_place_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    results = write_all(tmp_path / "results")
    with pytest.raises(InputError, match="does not exist; expected a file named"):
        write_report(results, figures=[tmp_path / "nowhere"])
    assert not (results / "report.html").exists()


def test_what_a_study_keeps_for_itself_is_no_figure(tmp_path: Path) -> None:
    kept = {"key": "k", "sha256": "0", "figures": {}}
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "distillation.json").write_text(json.dumps(kept))
    write_study(tmp_path / "results.json")
    further = read_further(tmp_path)
    assert [one.file for one in further.found] == ["results.json"]
    assert further.trouble == []


def test_a_study_of_an_earlier_version_is_shown_as_far_as_it_goes(
    tmp_path: Path,
) -> None:
    older = study_content()
    for name in ("columns", "passages", "about", "notes"):
        del older[name]
    (tmp_path / "results.json").write_text(json.dumps(older))
    page = Page(write_report(tmp_path))
    assert heads(page, "further-1-groups") == ["group", "seeds", "CE gap"]


@pytest.mark.parametrize("write", [write_revival, write_pool])
def test_hostile_names_are_text(tmp_path: Path, write: Callable[..., Path]) -> None:
    results = write_all(tmp_path / "results")
    write(results / f"{write.__name__.removeprefix('write_')}.json", group=HOSTILE)
    path = write_report(results)
    assert "alert(1)</script>" not in path.read_text(encoding="utf-8")
    assert "<script>alert(1)</script>&amp;</td>" in Page(path).id("further").text


def test_a_hostile_study_and_layer_are_text(tmp_path: Path) -> None:
    rows: list[Any] = [[HOSTILE, HOSTILE, HOSTILE], []]
    passage = {"text": HOSTILE, "heads": [HOSTILE, "b"], "rows": rows}
    write_study(
        tmp_path / "results.json",
        study=HOSTILE,
        passages=[passage],
        notes=[HOSTILE],
        verdicts=[{"sentence": HOSTILE}],
        command=HOSTILE,
    )
    write_layers(tmp_path / "layers.json", hook=HOSTILE, group=HOSTILE)
    path = write_report(tmp_path)
    assert "alert(1)</script>" not in path.read_text(encoding="utf-8")
    assert cells(Page(path), "further-1-passage-1")[1] == ["-", "-"]


def test_the_page_is_the_same_again_wherever_the_folder_is(tmp_path: Path) -> None:
    folder = write_figures(write_all(tmp_path / "results"))
    first = write_report(folder, out=tmp_path / "a.html").read_bytes()
    moved = folder.rename(tmp_path / "moved")
    assert write_report(moved, out=tmp_path / "b.html").read_bytes() == first


def test_every_study_of_the_catalogue_has_the_page_that_is_linked() -> None:
    missing = [
        name for name in GRID_STUDIES if not (DOCS / "studies" / f"{name}.md").is_file()
    ]
    assert missing == []
