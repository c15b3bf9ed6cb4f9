"""SAELens' own tests pass with our classes in place of its training classes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.upstream.run_sae_lens_tests import compare

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
