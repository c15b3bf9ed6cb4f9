"""The docs: claims, deviations, length of pages, lists of evaluations, paths."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval_recipes.registry import RECIPES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

MOST_WORDS = 1500
DERIVED = {"methods/matrix.md", "presets.md"}
"""Pages compared with the code or made from it; like tables of results they may be long."""
SHORT = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if path.relative_to(DOCS).parts[0] != "results"
    and path.relative_to(DOCS).as_posix() not in DERIVED
)


def _text(page: str) -> str:
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    ("page", "claim"),
    [
        ("docs/studies/mnist.md", "all four figures of the un-squared norms"),
        ("docs/results/mnist.md", "all four figures of the un-squared norms"),
        ("docs/studies/mnist.md", "the three settings that have dead latents share"),
        ("docs/results/mnist.md", "the three settings that have dead latents share"),
        ("docs/studies/weight-regularization.md", "agreement is highest (8.7 %)"),
        ("docs/results/weight-regularization.md", "agreement is highest (8.7 %)"),
        ("docs/studies/topk-regularizers.md", "lowers L1 / L2 only at k 128"),
        ("docs/results/topk-regularizers.md", "lowers L1 / L2 only at k 128"),
        ("docs/results/width-matched.md", "varies by a third between seeds"),
        ("README.md", "four to six times as fast"),
    ],
)
def test_a_claim_that_its_numbers_do_not_carry_is_gone(page: str, claim: str) -> None:
    assert claim not in _text(page)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("saereg_plugin/presets/temporal.py", "the paper's L_recon is summed"),
        (
            "docs/evals/cross-seed-statistics.md",
            "whose seeds all keep the same concepts",
        ),
    ],
)
def test_a_deviation_is_told(page: str, words: str) -> None:
    assert words in _text(page)


@pytest.mark.parametrize("page", SHORT)
def test_a_page_has_at_most_1500_words(page: str) -> None:
    assert len(_text(f"docs/{page}").split()) <= MOST_WORDS


def _first_cells(page: str, heading: str) -> list[str]:
    """Evaluations named in the first column of the table under a heading."""
    table = (ROOT / page).read_text(encoding="utf-8").partition(f"| {heading} |")[2]
    rows = [line.split(" | ")[0] for line in table.partition("\n\n")[0].splitlines()[1:]]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        ("docs/evals.md", "evaluation"),
        ("docs/howto/offline.md", "evaluation"),
        ("docs/file-formats/results.md", "evaluation"),
    ],
)
def test_a_table_of_evaluations_has_each_of_them(page: str, heading: str) -> None:
    assert set(_first_cells(page, heading)) == set(RECIPES)


@pytest.mark.parametrize("page", ["README.md", "docs/howto/offline.md"])
def test_the_command_for_all_evaluations_names_each_once(page: str) -> None:
    commands = re.findall(r"--evals ([\w,]+)", _text(page))
    assert sorted(max(commands, key=len).split(",")) == sorted(RECIPES)


def test_readme_describes_each_evaluation() -> None:
    described = re.findall(
        r"`(\w+)`", _text("README.md").partition("**Evaluate.**")[2].partition(" - ")[0]
    )
    assert set(RECIPES) <= set(described)


def test_where_things_are_names_what_is_there() -> None:
    text = (DOCS / "where-things-are.md").read_text(encoding="utf-8")
    folders = {name for name in re.findall(r"`([\w/]+/)`", text)}
    assert folders
    for folder in folders:
        homes = [ROOT, ROOT / "saereg_plugin", ROOT / "eval_recipes"]
        assert any((home / folder).is_dir() for home in homes), folder
    assert set(RECIPES) <= set(re.findall(r"\w+", text))
