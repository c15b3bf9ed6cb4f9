"""Rules of accessibility that a machine can check, by axe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.result_folders import STEERED
from tests.browser.visits import OPEN_ALL, Visit, fragment

BAD = ("serious", "critical")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_no_serious_violation_with_a_card_and_all_tables_open(
    plain: Path, visit: Callable[..., Visit], scheme: str, width: int
) -> None:
    size = {"width": width, "height": 800}
    opened = visit(
        plain, fragment("none-seed0", STEERED[0]), viewport=size, color_scheme=scheme
    )
    page = opened.page
    page.evaluate(OPEN_ALL)
    for figure in page.locator("figure.plot").all():
        figure.scroll_into_view_if_needed()
        figure.locator("svg.main-svg").first.wait_for()
    assert _violations(page) == []


def test_no_serious_violation_with_hostile_texts(
    hostile: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(hostile).page
    page.evaluate(OPEN_ALL)
    assert _violations(page) == []


def _violations(page: Any) -> list[str]:
    """Rule, elements and reason of each violation that keeps somebody out."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found
        if one["impact"] in BAD
        for node in one["nodes"]
    ]
