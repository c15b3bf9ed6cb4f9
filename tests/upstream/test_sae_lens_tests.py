"""SAELens' own tests pass with our classes in place of its training classes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.upstream.run_sae_lens_tests import Comparison, compare, main

FOLDER = "SAELENS_TESTS"


@pytest.mark.slow
@pytest.mark.skipif(
    FOLDER not in os.environ,
    reason=f"{FOLDER} names no folder with SAELens' own tests",
)
def test_saelens_own_tests_pass_with_our_classes() -> None:
    comparison = compare(Path(os.environ[FOLDER]))
    assert comparison.unexplained() == [], comparison.report()
    assert len(comparison.passed()) > 150


def test_a_test_that_ours_do_not_even_collect_fails() -> None:
    stock = {"a::one": ("passed", ""), "b::two": ("failure", "offline")}
    ours = {"b::two": ("failure", "offline"), "c": ("error", "collection failure")}
    comparison = Comparison(stock, ours)
    assert comparison.unexplained() == ["a::one"]
    assert comparison.cannot_run() == ["b::two", "c"]
    assert "fails      a::one: it was not collected" in comparison.report()


def test_a_run_in_which_nothing_passes_fails(tmp_path: Path) -> None:
    (tmp_path / "saes").mkdir()
    (tmp_path / "saes/test_sae.py").write_text("def test_it(): assert False\n")
    assert main([str(tmp_path)]) == 1
