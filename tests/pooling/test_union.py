"""Unique latents: planted duplicates, and the greedy rule in plain Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.metrics import cosine
from saereg_plugin.pooling.union import Union, unique_latents
from tests.oracles.union_oracle import greedy_union


def ones(rows: list[Tensor]) -> list[Tensor]:
    return [torch.ones(len(part)) for part in rows]


@settings(deadline=None, max_examples=25)
@given(
    concepts=st.lists(
        st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True),
        min_size=2,
        max_size=4,
    ),
    seed=st.integers(0, 1000),
)
def test_planted_duplicates_pool_to_exactly_the_union(
    concepts: list[list[int]], seed: int
) -> None:
    """Noisy copies of orthogonal concepts, of any length."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.eye(24)[given] + 0.05 * torch.randn(len(given), 24, generator=generator)
        for given in concepts
    ]
    rows = [
        part * torch.rand(len(part), 1, generator=generator) + part for part in rows
    ]
    found = unique_latents(rows, ones(rows))
    planted = torch.tensor([c for given in concepts for c in given])
    assert found.width == len(planted.unique())
    assert len(torch.stack([found.cluster, planted]).unique(dim=1)[0]) == found.width
    for number, candidate in enumerate(found.representative.tolist()):
        concept = int(planted[candidate])
        assert found.shared_by[number] == sum(concept in given for given in concepts)


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=2, max_size=4),
    threshold=st.sampled_from([0.0, 0.3, 0.7]),
    seed=st.integers(0, 1000),
)
def test_union_equals_the_greedy_rule_in_plain_python(
    sizes: list[int], threshold: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(n, 3, generator=generator) for n in sizes]
    # of few values, so that there are ties
    rates = [torch.randint(0, 3, (n,), generator=generator) / 4 for n in sizes]
    found = unique_latents(rows, rates, threshold=threshold)
    cluster, chosen = greedy_union(
        [part.tolist() for part in rows], [part.tolist() for part in rates], threshold
    )
    assert found.cluster.tolist() == cluster
    assert found.representative.tolist() == chosen
    flat = torch.cat(rows)
    between = cosine(flat[found.representative], flat[found.representative])
    between.fill_diagonal_(-1)
    assert not len(between) or float(between.max()) <= threshold
    own = cosine(flat, flat[found.representative])
    others = torch.ones(len(flat), dtype=torch.bool)
    others[found.representative] = False
    own = own[torch.arange(len(flat)), found.cluster][others]
    assert (own > threshold).all()


def test_what_most_dictionaries_have_represents_its_duplicates() -> None:
    """A row between two others, of which it alone is a duplicate."""
    angles = torch.tensor([-0.7, 0.0, 0.7])
    left, middle, right = torch.stack([angles.cos(), angles.sin()], 1)
    rows = [left[None], middle[None], right[None]]
    found = unique_latents(rows, [torch.ones(1), torch.zeros(1), torch.ones(1)])
    assert (found.representative.tolist(), found.shared_by.tolist()) == ([1], [3])


def test_the_more_frequent_latent_represents_a_duplicate() -> None:
    rows = [torch.eye(2)[:1], torch.eye(2)[:1]]
    found = unique_latents(rows, [torch.tensor([0.1]), torch.tensor([0.2])])
    assert found.representative.tolist() == [1]


def test_opposite_rows_are_different_latents() -> None:
    rows = [torch.eye(2)[:1], -torch.eye(2)[:1]]
    assert unique_latents(rows, ones(rows)).width == 2


def test_means_are_those_of_the_duplicates() -> None:
    found = Union(
        source=torch.tensor([0, 0, 1]),
        cluster=torch.tensor([1, 0, 1]),
        representative=torch.tensor([1, 0]),
        shared_by=torch.tensor([1, 2]),
    )
    assert found.mean(torch.tensor([1.0, 5.0, 2.0])).tolist() == [5.0, 1.5]
    rows = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 4.0]])
    expected = torch.tensor([[0.0, 3.0], [3 / 2**0.5, 3 / 2**0.5]])
    torch.testing.assert_close(found.mean_rows(rows), expected)


def test_a_single_dictionary_and_a_threshold_outside_are_refused() -> None:
    with pytest.raises(InputError, match="expected two or more that differ in seed"):
        unique_latents([torch.eye(2)], [torch.ones(2)])
    for threshold in (-0.1, 1.0):
        with pytest.raises(InputError, match="expected 0 or more, and less than 1"):
            unique_latents([torch.eye(2)] * 2, [torch.ones(2)] * 2, threshold=threshold)
