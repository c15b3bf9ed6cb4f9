"""The Python blocks of README and docs: each one is compiled, and run unless its page says why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docs_run.blocks import Block, blocks, python_pages
from tests.docs_run.small import smaller_file, smaller_python

SLOW = {
    "README.md",
    "docs/evals/steering.md",
    "docs/howto/evaluate-release.md",
    "docs/howto/python.md",
    "docs/howto/sae-lens-runner.md",
    "docs/howto/train-grid.md",
}
"""Pages that train, evaluate or write texts."""

PYTHON = [block for block in blocks() if block.language == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_a_python_block_compiles(block: Block) -> None:
    compile(block.text, block.name, "exec")


def test_every_page_with_python_is_run_or_says_why_not() -> None:
    assert len(python_pages()) > 25


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else [])
        for page in python_pages()
    ],
)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: str,
    workplace: Callable[[], Path],
    small_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks share their names; a block with a file name is written and may be imported."""
    folder = workplace()
    monkeypatch.syspath_prepend(folder)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks():
        if block.page != page:
            continue
        if block.title is not None:
            text = smaller_file(block.language, block.text, small_model)
            (folder / block.title).write_text(text, encoding="utf-8")
        elif block.language == "python" and block.reason is None:
            if "run_sweep(" in block.text or "sr.train(" in block.text:
                shutil.rmtree(folder / "my-release", ignore_errors=True)
            source = smaller_python(block.text, small_model)
            exec(compile(source, block.name, "exec"), names)
