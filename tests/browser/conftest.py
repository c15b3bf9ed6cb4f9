"""One browser, and pages of results that it opens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from eval_recipes.report.page import write_report
from tests.browser.result_folders import (
    write_everything,
    write_hostile,
    write_inputs,
    write_wide,
)
from tests.browser.visits import Visit, visit_in

FLAGS = (
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


# not of the session: while playwright runs, asyncio.run() of other tests would fail
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium of the system; without it tests are skipped, in CI they fail."""
    found = shutil.which("chromium")
    if found is None:
        missing = "there is no chromium; 'apt-get install chromium' brings it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=[*FLAGS])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Open a page; at the end of the test nothing may have gone wrong in it."""
    visits: list[Visit] = []

    def open_page(path: Path, fragment: str = "", **settings: Any) -> Visit:
        visits.append(visit_in(browser, path, **settings))
        visits[-1].go(fragment)
        return visits[-1]

    yield open_page
    trouble = [said for one in visits for said in one.trouble]
    for one in visits:
        one.context.close()
    assert trouble == []


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of four evaluations about six SAEs in two groups."""
    return write_everything(tmp_path_factory.mktemp("browser") / "results")


@pytest.fixture(scope="session")
def plain(results: Path) -> Path:
    """The page about them."""
    return write_report(results)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page full of names, tokens and texts that try to be more than text."""
    results = write_hostile(tmp_path_factory.mktemp("hostile") / "results")
    return write_report(results, release=results.parent / "release")


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about six SAEs of 4,608 latents, 300 of each in full."""
    return write_report(write_wide(tmp_path_factory.mktemp("wide") / "results"))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about SAEs on images and clips."""
    return write_report(write_inputs(tmp_path_factory.mktemp("inputs") / "results"))
