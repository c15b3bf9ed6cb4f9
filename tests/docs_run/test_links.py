"""Links and numbers of pages that MkDocs does not read, and of pages that quote others."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module

import pytest

from tests.docs_run.blocks import ROOT

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_OUTSIDE = [
    path.name
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
]
"""Pages outside ``docs``; ``mkdocs build --strict`` checks those inside."""


def _text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def _links() -> list[tuple[str, str]]:
    return [(page, link) for page in _OUTSIDE for link in _LINK.findall(_text(page))]


@pytest.mark.parametrize(("page", "link"), _links())
def test_a_link_outside_the_site_leads_to_a_file_and_a_heading(
    page: str, link: str
) -> None:
    assert "://" not in link, "no address of this project is known"
    file, _, anchor = link.partition("#")
    assert (ROOT / file).is_file()
    assert not anchor or anchor in _anchors(file), page


@cache
def _anchors(page: str) -> frozenset[str]:
    headings = re.findall(r"^#+ (.+)$", _text(page), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return frozenset(re.sub(r"[\s-]+", "-", heading) for heading in plain)


_ADVICE = "docs/which-regulariser.md"
_NUMBER = re.compile(r"[−-]?(?:\d[\d,]*)?\.?\d+")


def _rows() -> list[list[str]]:
    """Cells of the table of what was measured; the last one links the source."""
    table = _text(_ADVICE).partition("| regulariser |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return [row for row in rows if "](" in row[-1] and "results/" in row[-1]]


def test_the_page_of_advice_has_rows_with_sources() -> None:
    assert len(_rows()) > 10


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row[0][:40])
def test_a_number_of_the_advice_is_on_the_page_that_it_links(row: list[str]) -> None:
    (source,) = _LINK.findall(row[-1])
    there = set(_numbers(_text(f"docs/{source}")))
    for cell in row[1:-1]:
        told = re.sub(r"at k \d+(?: and \d+)?|L1|L2|10 %", "", _LINK.sub("]", cell))
        assert set(_numbers(told)) <= there, cell


def _numbers(text: str) -> list[str]:
    return [found.replace(",", "").replace("−", "-") for found in _NUMBER.findall(text)]


def _moved() -> list[tuple[str, str]]:
    """Old and new dotted name of each row of the changelog's table."""
    table = _text("CHANGELOG.md").partition("| 0.1.0 | now |")[2].partition("\n\n")[0]
    found: list[tuple[str, str]] = []
    for line in table.splitlines()[2:]:
        old, new = (
            re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")
        )
        module = new[0].rpartition(".")[0]
        found.append((old[0], new[0]))
        found += [(old[0], module + name) for name in new[1:]]
    return found


@pytest.mark.parametrize(("old", "new"), _moved())
def test_a_moved_name_is_where_the_changelog_says(old: str, new: str) -> None:
    module, _, name = new.rpartition(".")
    assert hasattr(import_module(module), name)
    assert old != new
