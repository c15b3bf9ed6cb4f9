"""Rules of accessibility that a machine can check, by axe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.result_folders import STEERED
from tests.browser.visits import OPEN_ALL, Visit, fragment

BAD = ("serious", "critical")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["plain", "hostile", "inputs"])
def test_no_serious_violation_with_a_card_and_all_tables_open(
    name: str, request: pytest.FixtureRequest, visit: Callable[..., Visit], scheme: str
) -> None:
    cards = {"plain": ("none-seed0", STEERED[0]), "inputs": ("images-seed0", 8)}
    shown = fragment(*cards[name]) if name in cards else ""
    size = {"width": 1280, "height": 800}
    path = request.getfixturevalue(name)
    page = visit(path, shown, viewport=size, color_scheme=scheme).page
    page.evaluate(OPEN_ALL)
    for figure in page.locator("figure.plot").all():
        figure.scroll_into_view_if_needed()
        figure.locator("svg.main-svg").first.wait_for()
    assert _violations(page) == []
    page.set_viewport_size({"width": 390, "height": 800})
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
