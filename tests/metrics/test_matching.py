from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saereg_plugin.metrics import (
    alive_mask,
    cosine,
    hungarian,
    match_rows,
)
from tests.metrics.shared import shared_latents
from tests.oracles import cross_seed_oracle as oracle


class Planted(NamedTuple):
    dec_a: Tensor
    enc_a: Tensor
    dec_b: Tensor
    enc_b: Tensor
    ids_a: Tensor
    ids_b: Tensor
    partner: dict[int, int]


def orthonormal(n: int, d: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(d, n, generator=generator))[0].T.contiguous()


def planted(
    *, shared: int, alive_a: int, alive_b: int, dead_a: int, dead_b: int, seed: int = 0
) -> Planted:
    """SAEs that share ``shared`` latents, permuted and with signs flipped; dead latents' encoders are orthogonal to their decoders."""
    generator = torch.Generator().manual_seed(seed)
    n_a, n_b = alive_a + dead_a, alive_b + dead_b
    total = n_a + n_b + 8
    basis = orthonormal(total, total, generator)
    dec_a, dec_b = basis[:n_a].clone(), basis[n_a : n_a + n_b].clone()
    flip = torch.randint(0, 2, (shared, 1), generator=generator) * 2.0 - 1.0
    dec_b[:shared] = dec_a[:shared] * flip
    enc_a, enc_b = dec_a.clone(), dec_b.clone()
    enc_a[alive_a:] = basis[-1]
    enc_b[alive_b:] = basis[-2]
    order_a = torch.randperm(n_a, generator=generator)
    order_b = torch.randperm(n_b, generator=generator)
    place_b = order_b.argsort()
    place_a = order_a.argsort()
    scale = torch.rand(n_a, 1, generator=generator) * 3 + 0.1
    return Planted(
        dec_a[order_a] * scale,
        enc_a[order_a] / scale,
        dec_b[order_b],
        enc_b[order_b],
        place_a[:alive_a].sort().values,
        place_b[:alive_b].sort().values,
        {int(place_a[i]): int(place_b[i]) for i in range(shared)},
    )


def found_pairs(case: Planted, *, alive: bool) -> tuple[set[tuple[int, int]], int]:
    result = shared_latents(
        *case[:4],
        ids_a=case.ids_a if alive else None,
        ids_b=case.ids_b if alive else None,
    )
    pairs = {
        (i, int(result.partner[i])) for i in result.shared.nonzero().flatten().tolist()
    }
    assert {j for _, j in pairs} == set(result.shared_b.nonzero().flatten().tolist())
    return pairs, result.denominator


@pytest.mark.parametrize(("dead_a", "dead_b"), [(30, 15), (0, 0)])
def test_known_answer(dead_a: int, dead_b: int) -> None:
    case = planted(shared=140, alive_a=200, alive_b=260, dead_a=dead_a, dead_b=dead_b)
    assert torch.equal(
        alive_mask(case.enc_a, case.dec_a).nonzero().flatten(), case.ids_a
    )
    pairs, denominator = found_pairs(case, alive=True)
    assert pairs == set(case.partner.items())
    assert len(pairs) / denominator == 0.70


@pytest.mark.parametrize("alive", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_oracle(seed: int, alive: bool) -> None:
    case = planted(shared=9, alive_a=14, alive_b=11, dead_a=3, dead_b=4, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    case = case._replace(
        dec_b=case.dec_b + 0.15 * torch.randn(case.dec_b.shape, generator=generator)
    )
    dec_a, enc_a, dec_b, enc_b = (matrix.tolist() for matrix in case[:4])
    if alive:
        ids_a, ids_b = case.ids_a.tolist(), case.ids_b.tolist()
        assert ids_a == oracle.alive_ids(enc_a, dec_a)
    else:
        ids_a, ids_b = list(range(17)), list(range(15))
    expected = oracle.shared_pairs(dec_a, enc_a, dec_b, enc_b, ids_a, ids_b)
    pairs, denominator = found_pairs(case, alive=alive)
    assert pairs == expected
    assert denominator == min(len(ids_a), len(ids_b))


def test_partners_are_compared_by_id_not_by_position() -> None:
    """A has more latents than B: the decoder leaves out A's 0, the encoder A's 3."""
    e = torch.eye(6)
    dec_a, enc_a = (
        torch.stack([e[4], e[0], e[1], e[2]]),
        torch.stack([0.8 * e[2] + 0.6 * e[5], e[0], e[1], 0.75 * e[2] + 0.66 * e[4]]),
    )
    dec_b = enc_b = e[:3]
    result = shared_latents(dec_a, enc_a, dec_b, enc_b)
    assert result.partner.tolist() == [-1, 0, 1, 2]
    assert result.encoder_partner.tolist() == [2, 0, 1, -1]
    assert result.shared.tolist() == [False, True, True, False]
    # The published comparison: columns of the two solver outputs, entry by entry.
    outputs = [
        linear_sum_assignment(cosine(a, b).abs().numpy(), maximize=True)[1]
        for a, b in ((dec_a, dec_b), (enc_a, enc_b))
    ]
    assert int((outputs[0] == outputs[1]).sum()) == 0
    assert result.n_shared == 2


@given(rows=st.integers(1, 5), extra=st.integers(0, 2), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_hungarian_is_optimal(rows: int, extra: int, seed: int) -> None:
    scores = torch.rand(
        rows, rows + extra, generator=torch.Generator().manual_seed(seed)
    )
    best = oracle.best_total_by_brute_force(scores.double().tolist())
    wide, tall = hungarian(scores), hungarian(scores.T.contiguous())
    assert float(wide.similarity.double().sum()) == pytest.approx(best, abs=1e-6)
    assert float(tall.similarity.double().sum()) == pytest.approx(best, abs=1e-6)
    assert int((tall.partner >= 0).sum()) == rows
    assert wide.mean == pytest.approx(best / rows, abs=1e-6)


@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=25)
def test_shared_ignores_order_scale_and_joint_sign(seed: int, scale: float) -> None:
    case = planted(shared=4, alive_a=6, alive_b=7, dead_a=1, dead_b=0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(7, generator=generator)
    sign = torch.randint(0, 2, (7, 1), generator=generator) * 2.0 - 1.0
    result = shared_latents(*case[:4])
    changed = shared_latents(
        case.dec_a[order] * sign * scale,
        case.enc_a[order] * sign,
        case.dec_b,
        case.enc_b,
    )
    assert torch.equal(changed.shared, result.shared[order])
    assert torch.equal(changed.shared_b, result.shared_b)


def test_zero_rows_are_never_shared() -> None:
    zero = torch.zeros(3, 4)
    result = shared_latents(zero, zero, torch.eye(4)[:3], torch.eye(4)[:3])
    assert result.n_shared == 0
    assert result.decoder_similarity.tolist() == [0, 0, 0]


def test_no_latent_takes_part() -> None:
    none = torch.empty(0, dtype=torch.int64)
    eye = torch.eye(3)
    result = shared_latents(eye, eye, eye, eye, ids_a=none)
    assert result.fraction is None
    assert result.partner.tolist() == [-1, -1, -1]


def test_signed_and_absolute_matching_differ() -> None:
    a, b = torch.eye(2), torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    assert match_rows(a, b).mean == 1.0
    assert match_rows(a, b, absolute=False).mean == 0.0
