"""Agreement of cores: planted seeds, and chance by drawing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_recipes.distillation.agreement import Latents, agreements, overlap
from saereg_plugin.metrics.matching import match_rows

N, D = 12, 24


def latents(core: list[int], *, order: torch.Tensor | None = None) -> Latents:
    """Orthogonal latents, in another order."""
    rows = torch.eye(D)[:N]
    rows = rows if order is None else rows[order]
    alive = torch.ones(N, dtype=torch.bool)
    return Latents(rows, rows, torch.tensor(core), alive)


ORDER = torch.randperm(N, generator=torch.Generator().manual_seed(0))


def places(core: list[int]) -> list[int]:
    """Numbers of the same latents in the other order."""
    return ORDER.argsort()[core].tolist()


def test_equal_cores_agree_wholly_whatever_the_order() -> None:
    core = [3, 0, 7]
    a, b = latents(core), latents(places(core), order=ORDER)
    matching = match_rows(a.decoder, b.decoder)
    assert overlap(a, b, matching)[0] == 1.0


def test_planted_overlap_is_counted_by_the_smaller_core() -> None:
    a, b = latents([0, 1, 2, 3]), latents(places([2, 3, 9]), order=ORDER)
    value, null = overlap(a, b, match_rows(a.decoder, b.decoder))
    assert value == pytest.approx(2 / 3)
    assert null == pytest.approx(4 * 3 / N / 3)


@settings(deadline=None, max_examples=10)
@given(st.integers(1, N), st.integers(1, N), st.integers(0, 99))
def test_the_null_is_the_mean_of_drawn_cores(one: int, two: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    alive = torch.rand(N, generator=generator) < 0.8
    alive[0] = True
    firing = alive.nonzero().squeeze(1)
    sizes = min(one, len(firing)), min(two, len(firing))

    def drawn(size: int) -> Latents:
        core = firing[torch.randperm(len(firing), generator=generator)[:size]]
        return replace(latents(core.tolist()), alive=alive)

    matching = match_rows(torch.eye(D)[:N], torch.eye(D)[:N])
    found = [overlap(drawn(sizes[0]), drawn(sizes[1]), matching) for _ in range(400)]
    values, nulls = map(torch.tensor, zip(*found, strict=True))
    assert nulls.std() < 1e-6
    # five standard errors
    margin = 5 * float(values.double().std()) / 20 + 1e-6
    assert float(values.double().mean()) == pytest.approx(float(nulls[0]), abs=margin)


def test_core_latents_that_are_shared_stand_out_from_all() -> None:
    generator = torch.Generator().manual_seed(1)
    a = latents([0, 1, 2])
    other = torch.nn.functional.normalize(torch.randn(N, D, generator=generator))
    rows = torch.cat([torch.eye(D)[:3], other[3:]])
    b = Latents(rows, rows, torch.tensor([0, 1, 5]), torch.ones(N, dtype=torch.bool))
    found = {
        (pair, name): (v, null) for pair, name, v, null in agreements({0: a, 4: b})
    }
    assert found[(0, 4), "core_agreement"][0] == pytest.approx(2 / 3)
    value, null = found[(0, 4), "core_shared"]
    # three of three, and two of three; of all latents three of twelve on either side
    assert value == pytest.approx(5 / 6)
    assert null == pytest.approx(6 / 24)
    assert found[None, "core_shared"] == found[(0, 4), "core_shared"]


def test_one_seed_has_no_pairs() -> None:
    assert list(agreements({0: latents([1])})) == []
