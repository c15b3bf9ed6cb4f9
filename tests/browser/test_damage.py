"""Pages about folders that are partial or damaged; none about an empty one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval_recipes import cli
from eval_recipes.report.page import write_report
from tests.browser.result_folders import STEERED
from tests.browser.visits import Visit, fragment, said


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    return shutil.copytree(results, tmp_path / "results")


def test_an_empty_folder_is_one_clear_line_and_no_page(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["report", str(tmp_path)])
    assert done.exit_code != 0
    assert "holds no results" in done.output + str(done.exception)
    assert not list(tmp_path.glob("*.html"))


def test_a_partial_folder_says_above_everything_what_is_missing(
    copy: Path, visit: Callable[..., Visit]
) -> None:
    shutil.rmtree(copy / "autointerp")
    for path in (*copy.rglob("*none-seed2*"), *copy.rglob("*_texts.parquet")):
        path.unlink()
    opened = visit(write_report(copy), fragment("none-seed0", STEERED[0]))
    page = opened.page
    alert = page.locator(".alert", has_text="table 'lab_none-seed0_texts.parquet'")
    assert "is missing" in said(alert)
    assert opened.title == "none-seed0 / 4"
    # the seed without results has no link; the part without its table says why
    assert page.locator(".lat-match-head", has_text="seed 2").locator("a").count() == 0
    steering = page.get_by_role("region", name="Steering")
    assert "texts.parquet" in said(steering)


def test_damaged_results_and_tables_are_alerts_and_the_rest_is_shown(
    copy: Path, visit: Callable[..., Visit]
) -> None:
    (result,) = (copy / "core").glob("*none-seed0_eval_results.json")
    result.write_text(result.read_text()[:300])
    for path in copy.rglob("*_examples.parquet"):
        path.write_bytes(b"PAR1 <b>no table</b>")
    opened = visit(write_report(copy), fragment("l2-seed0", STEERED[0]))
    page = opened.page
    alerts = [said(one) for one in page.locator(".alert.error").all()]
    assert any("core/lab_none-seed0_eval_results.json is left out" in a for a in alerts)
    assert sum("_examples.parquet" in alert for alert in alerts) == 6
    assert page.locator(".alert").first.bounding_box()["y"] < 400  # type: ignore[index]
    assert "examples.parquet" in said(page.get_by_role("region", name="Fires on"))
    assert page.locator(".lat-match-head").count() == 2


def test_a_folder_without_results_about_latents_says_which_would_bring_them(
    copy: Path, visit: Callable[..., Visit]
) -> None:
    for name in ("autointerp", "cross_seed", "examples", "steering"):
        shutil.rmtree(copy / name)
    page = visit(write_report(copy)).page
    assert "These results hold nothing about single latents" in said(
        page.locator("#latents")
    )
    assert page.locator("#latent-browser").count() == 0
