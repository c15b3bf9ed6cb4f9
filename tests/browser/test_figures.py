"""Figures of studies and commands, and of the stability table, as they are seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eval_recipes.cross_seed.stability import read_stability
from eval_recipes.report.latents.inputs import short
from eval_recipes.report.latents.payload import SPAN_KINDS
from eval_recipes.tables.table import digits
from tests.browser.visits import Visit, fragment, said


def test_a_card_has_firing_form_tenth_and_spans_of_the_stability_table(
    plain: Path, results: Path, visit: Callable[..., Visit]
) -> None:
    (path,) = results.rglob("*l2-seed1_stability.parquet")
    row = read_stability(path).iloc[9]
    page = visit(plain, fragment("l2-seed1", 9)).page
    facts = said(page.locator(".lat-facts"))
    for name, column in {
        "Firing rate": "firing_rate",
        "Surface form": "surface_form",
        "Tenth by stability": "stability_tenth",
        "Form by chance": "surface_form_chance",
    }.items():
        assert f"{name}{digits(short(row[column]) or 0.0)}" in facts
    spans = page.locator(".lat-spans tbody tr")
    assert [said(one) for one in spans.all()] == [
        "".join([str(m)] + [digits(row[f"span_{kind}_{m}"]) for kind in SPAN_KINDS])
        for m in (1, 2, 4, 8)
    ]


def test_figures_of_studies_and_commands_are_seen_with_what_is_not_there(
    plain: Path, hostile: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(plain, "#further").page
    assert page.locator("#further article h3").all_text_contents() == [
        *("study finetune, scale small", "pool", "revive", "distill", "layers"),
        "data",
    ]
    row = page.locator("#further-3-mean tbody tr").first
    assert ".250 [.188, .312]" in said(row)
    assert "Not found" not in said(page.locator("#further"))
    missing = said(visit(hostile).page.locator("#further"))
    assert "distillation.json of saereg-bench distill" in missing


def test_figures_need_no_script(plain: Path, visit: Callable[..., Visit]) -> None:
    page = visit(plain, java_script_enabled=False).page
    for name in ("further-1-groups", "further-3-mean", "further-6-scores"):
        assert page.locator(f"#{name} tbody tr").first.is_visible()
