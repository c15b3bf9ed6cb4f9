"""Claims of the docs that their own numbers did not carry, and deviations they name."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _text(page: str) -> str:
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    ("page", "claim"),
    [
        ("docs/studies/mnist.md", "all four figures of the un-squared norms"),
        ("docs/studies/mnist.md", "the three settings that have dead latents share"),
        ("docs/studies/weight-regularization.md", "agreement is highest (8.7 %)"),
        ("docs/studies/topk-regularizers.md", "lowers L1 / L2 only at k 128"),
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
        ("docs/evals/cross_seed.md", "whose seeds all keep the same concepts"),
    ],
)
def test_a_deviation_is_told(page: str, words: str) -> None:
    assert words in _text(page)
