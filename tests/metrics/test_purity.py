"""Class purity against plain loops, planted classes and the permutation floor."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saereg_plugin.metrics import (
    ClassTally,
    Codes,
    class_tally,
    held_out_purity,
    shuffled_labels,
)
from tests.oracles import vision_oracle as oracle


def halves(
    codes: Codes, labels: Tensor, n_classes: int
) -> tuple[ClassTally, ClassTally]:
    """Tallies of the images with even and with odd numbers."""
    even = codes.images % 2 == 0
    first, second = (
        class_tally(codes.where(half), labels, n_classes) for half in (even, ~even)
    )
    return first, second


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(0, 10_000))
def test_tallies_give_the_purity_of_plain_loops(images: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    acts = torch.rand(images, 5, generator=generator, dtype=torch.float64)
    acts *= torch.rand(images, 5, generator=generator) < 0.4
    labels = torch.randint(0, 3, (images,), generator=generator)
    codes = Codes.of(acts)
    tally = class_tally(codes, labels, 3)
    held_out = held_out_purity(*halves(codes, labels, 3))
    found = torch.stack([tally.binary(), tally.weighted(), held_out], dim=1)
    wanted = [
        [
            *oracle.purity(column, labels.tolist()),
            oracle.held_out_purity(column, labels.tolist()),
        ]
        for column in acts.T.tolist()
    ]
    torch.testing.assert_close(
        found, torch.tensor(wanted, dtype=torch.float64), equal_nan=True
    )
    assert tally.images.tolist() == (acts != 0).sum(0).tolist()


def test_planted_latents_have_known_purity() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    acts = torch.zeros(6, 3)
    acts[labels == 1, 0] = 1.0
    acts[:, 1] = torch.tensor([1.0, 1.0, 6.0, 0.0, 0.0, 0.0])
    tally = class_tally(Codes.of(acts), labels, 3)
    assert tally.binary()[:2].tolist() == pytest.approx([1.0, 2 / 3])
    # most of its images are of class 0, most of its activation is not
    assert tally.weighted()[:2].tolist() == pytest.approx([1.0, 0.25])
    assert math.isnan(tally.binary()[2]) and math.isnan(tally.weighted()[2])


def test_a_latent_that_fires_once_is_pure_but_not_on_a_held_out_class() -> None:
    labels = torch.arange(4)
    codes = Codes.of(torch.tensor([[0.0], [2.0], [0.0], [0.0]]))
    assert class_tally(codes, labels, 4).binary().item() == 1.0
    assert math.isnan(held_out_purity(*halves(codes, labels, 4)).item())


def test_random_latents_are_as_pure_as_shuffled_labels() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (400,), generator=generator)
    acts = (torch.rand(400, 200, generator=generator) < 0.02).float()
    codes = Codes.of(acts)
    found = class_tally(codes, labels, 4).binary().nanmean().item()
    floors = [
        class_tally(codes, order, 4).binary().nanmean().item()
        for order in shuffled_labels(labels, 3, seed=0)
    ]
    # eight images each: the largest of four counts is far above a quarter
    assert found > 0.4
    assert found == pytest.approx(sum(floors) / 3, abs=0.03)
    held_out = held_out_purity(*halves(codes, labels, 4)).nanmean().item()
    assert held_out == pytest.approx(0.25, abs=0.04)


def test_taking_a_block_away_leaves_the_others() -> None:
    generator = torch.Generator().manual_seed(2)
    acts = torch.rand(9, 4, generator=generator)
    labels = torch.randint(0, 3, (9,), generator=generator)
    codes = Codes.of(acts)
    whole = class_tally(codes, labels, 3)
    block = class_tally(codes.rows(slice(0, 4)), labels[:4], 3)
    rest = class_tally(codes.rows(slice(4, 9)), labels[4:], 3)
    torch.testing.assert_close((whole - block).counts, rest.counts)
    torch.testing.assert_close((block + rest).mass, whole.mass)
