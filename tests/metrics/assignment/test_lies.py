"""The gap that ``assign`` states is true whatever its own search returns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from saereg_plugin.metrics import certify, match_rows
from saereg_plugin.metrics.assignment.certificate import check
from saereg_plugin.metrics.assignment.search import SINGLE
from saereg_plugin.metrics.assignment.solve import Edges, State
from saereg_plugin.metrics.assignment.weights import DenseWeights
from tests.metrics.assignment.problems import ROUNDING, problem
from tests.oracles import assignment_oracle as oracle

SHAPES = [(40, 40), (30, 50), (50, 30), (300, 700)]


def patch_solve(
    monkeypatch: pytest.MonkeyPatch, *lies: Callable[[State], None]
) -> None:
    """Let the search solve the graph, and then spoil what it found."""
    honest = State.solve

    def solve(self: State, edges: Edges) -> None:
        honest(self, edges)
        for lie in lies:
            lie(self)

    monkeypatch.setattr(State, "solve", solve)


def patch_completed(
    monkeypatch: pytest.MonkeyPatch, lie: Callable[[np.ndarray], np.ndarray]
) -> None:
    honest = State.completed
    monkeypatch.setattr(State, "completed", lambda self: lie(honest(self)))


def swapped(state: State) -> None:
    """Two rows change partners: still a matching, and a worse one."""
    one, other = np.flatnonzero(state.mate != SINGLE)[:2]
    state.mate[[one, other]] = state.mate[[other, one]]
    state.back[state.mate[[one, other]]] = [one, other]


def negative_prices(state: State) -> None:
    """Every second price is below 0, which would lower the bound."""
    state.v[::2] = -(1 << 29)


def a_huge_price(state: State) -> None:
    """32 bits cannot hold it: it would wrap around to a negative one."""
    state.v[0] = 3 << 30


def shifted(state: State) -> None:
    state.v += 12345


def no_prices(state: State) -> None:
    state.v[:] = 0


def promises(state: State) -> None:
    """Rows are said to have more profit than any pair can give: no pair gets listed."""
    state.u[:] = 1 << 30


def duplicate(partner: np.ndarray) -> np.ndarray:
    taken = np.flatnonzero(partner != SINGLE)
    partner[taken[0]] = partner[taken[1]]
    return partner


def missing(partner: np.ndarray) -> np.ndarray:
    partner[np.flatnonzero(partner != SINGLE)[0]] = SINGLE
    return partner


def outside(partner: np.ndarray) -> np.ndarray:
    partner[np.flatnonzero(partner != SINGLE)[0]] = 1000
    return partner


def scores_of(a: Tensor, b: Tensor, *, absolute: bool) -> np.ndarray:
    return oracle.similarity(a.double().numpy(), b.double().numpy(), absolute=absolute)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (duplicate, "rows of a to"),
        (missing, "rows of a to"),
        (outside, "to 1000 of b"),
        (lambda partner: partner[:-1], "partner has shape"),
        (np.zeros_like, "rows of a to 1 rows of b"),
    ],
)
def test_what_is_no_matching_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    lie: Callable[[np.ndarray], np.ndarray],
    message: str,
    shape: tuple[int, int],
    absolute: bool,
) -> None:
    a, b = problem("random", *shape, 16, 0)
    patch_completed(monkeypatch, lie)
    with pytest.raises(RuntimeError, match=f"gave no matching.*{message}"):
        match_rows(a, b, absolute=absolute)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "lies",
    [
        (swapped,),
        (negative_prices,),
        (a_huge_price,),
        (shifted,),
        (no_prices,),
        (promises,),
        (swapped, negative_prices),
        (swapped, a_huge_price),
        (swapped, no_prices, promises),
    ],
    ids=lambda lies: "+".join(lie.__name__ for lie in lies),
)
def test_the_gap_covers_what_is_lost(
    monkeypatch: pytest.MonkeyPatch,
    lies: tuple[Callable[[State], None], ...],
    shape: tuple[int, int],
    absolute: bool,
) -> None:
    """And it is the gap that ``certify`` finds by the partners and prices returned."""
    a, b = problem("random", *shape, 16, 0)
    patch_solve(monkeypatch, *lies)
    found = match_rows(a, b, absolute=absolute)
    monkeypatch.undo()
    scores = scores_of(a, b, absolute=absolute)
    matched = (found.partner >= 0).nonzero().flatten().numpy()
    total = scores[matched, found.partner.numpy()[matched]].sum()
    lost = oracle.best_total(scores) - total
    slack = ROUNDING * min(shape)
    assert found.gap >= max(lost - slack, 0)
    if swapped in lies:
        assert lost > 1e-3
    assert float(found.prices.min()) >= 0
    proof = certify(a, b, found.partner, found.prices, absolute=absolute)
    assert proof.gap == found.gap
    assert torch.equal(torch.from_numpy(proof.similarity).float(), found.similarity)


def test_a_negative_price_buys_no_smaller_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A price that is exactly as far below 0 as the total fell short would hide the loss."""
    a, b = problem("random", 6, 8, 8, 1)
    b = torch.cat([b, torch.zeros(1, 8)])
    best = float(match_rows(a, b).similarity.double().sum())
    patch_solve(monkeypatch, swapped)
    honest = match_rows(a, b)
    lost = best - float(honest.similarity.double().sum())
    assert honest.gap >= lost > 0.01

    def hiding(state: State) -> None:
        state.v[-1] = -round(lost * (1 << 30))

    patch_solve(monkeypatch, hiding)
    assert match_rows(a, b).gap == honest.gap


def test_a_pass_over_what_is_no_matching_ends_in_no_gap_below_0() -> None:
    """Both rows take the better column: 2 in total, where no matching has more than 1.5."""
    weights = DenseWeights(torch.tensor([[1.0, 0.5], [1.0, 0.5]]))
    steps = np.array([1 << 29, 0])
    seen = check(weights, np.array([1, 0], np.int32), steps)
    assert seen.bound == seen.total == 3 << 29
    with pytest.raises(RuntimeError, match="is below the total"):
        check(weights, np.array([0, 0], np.int32), steps)
