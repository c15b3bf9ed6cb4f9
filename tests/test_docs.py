"""The docs: claims, deviations, length of pages, lists of evaluations, names of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from eval_recipes.registry import RECIPES, load_evaluation

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
        ("saereg_plugin/presets/activations.py", "the paper's L_recon is summed"),
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


def _rows(page: str) -> list[list[str]]:
    """Cells of the table whose first column is called evaluation."""
    table = (ROOT / page).read_text(encoding="utf-8").partition("| evaluation |")[2]
    lines = table.partition("\n\n")[0].splitlines()[2:]
    return [line.strip("| ").split(" | ") for line in lines]


def _names(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


@pytest.mark.parametrize(
    "page", ["docs/evals.md", "docs/howto/offline.md", "docs/file-formats/results.md"]
)
def test_a_table_of_evaluations_has_each_of_them(page: str) -> None:
    assert {name for row in _rows(page) for name in _names(row[0])} == set(RECIPES)


def test_the_table_of_results_has_their_type_and_schemas() -> None:
    told = {
        (_names(row[0])[0], *_names(row[1]), *_names(row[-1]))
        for row in _rows("docs/file-formats/results.md")
    }
    evaluations = [load_evaluation(name) for name in RECIPES]
    assert told == {
        (e.name, e.eval_type_id, s) for e in evaluations for s in e.outputs()
    }


def test_the_page_of_evaluations_tells_which_read_text() -> None:
    told = _text("docs/evals.md").partition("## Texts ")[2].partition(".")[0]
    assert set(_names(told)) & set(RECIPES) == {
        name for name in RECIPES if load_evaluation(name).reads_text
    }


@pytest.mark.parametrize("page", ["README.md", "docs/howto/offline.md"])
def test_the_command_for_all_evaluations_of_language_models_names_each_once(
    page: str,
) -> None:
    commands = re.findall(r"--evals ([\w,]+)", _text(page))
    served = [name for name in RECIPES if not load_evaluation(name).reads_images]
    assert sorted(max(commands, key=len).split(",")) == sorted(served)


def test_readme_describes_each_evaluation() -> None:
    told = _text("README.md").partition("**Evaluate.**")[2].partition(" - ")[0]
    assert set(RECIPES) <= set(_names(told))


def test_where_things_are_names_what_is_there() -> None:
    text = _text("docs/where-things-are.md")
    folders = set(re.findall(r"`([\w/]+/)`", text))
    assert folders
    for folder in folders:
        homes = [ROOT, ROOT / "saereg_plugin", ROOT / "eval_recipes"]
        assert any((home / folder).is_dir() for home in homes), folder
    files = set(re.findall(r"`(\w+/[\w/]+\.py)`", text))
    assert files
    for file in files:
        homes = [ROOT, ROOT / "saereg_plugin", ROOT / "eval_recipes"]
        assert any((home / file).is_file() for home in homes), file
    assert set(RECIPES) <= set(_names(text))


_IMPORT = re.compile(
    r"^from ((?:saereg_plugin|eval_recipes)[\w.]*) import (\([\w\s,]*\)|[\w, ]+)$",
    flags=re.MULTILINE,
)


def _told_names() -> Iterator[tuple[str, str, str]]:
    """Page, module and name of everything that a page imports, or spells with dots."""
    for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        page = path.relative_to(ROOT).as_posix()
        for module, names in _IMPORT.findall(text):
            yield from ((page, module, name) for name in re.findall(r"\w+", names))
        for dotted in re.findall(r"`((?:saereg_plugin|eval_recipes)\.[\w.]+)", text):
            yield (page, *dotted.rpartition(".")[::2])


@pytest.mark.parametrize(("page", "module", "name"), sorted(set(_told_names())))
def test_a_name_of_the_code_on_a_page_is_there(
    page: str, module: str, name: str
) -> None:
    found = import_module(module)
    inside = {module.name for module in iter_modules(getattr(found, "__path__", []))}
    assert hasattr(found, name) or name in inside, page
