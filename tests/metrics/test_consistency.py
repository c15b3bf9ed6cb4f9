import pytest
import torch
from torch import Tensor

from saereg_plugin.metrics import (
    latent_stability,
    match_rows,
    seen_from_b,
    share_classes,
    shared_mask,
    stable_mask,
    with_latent_ids,
)
from tests.metrics.shared import shared_latents
from tests.oracles import cross_seed_oracle as oracle

# Of 10 latents, seeds 0, 1 and 2 all share 4; 0 and 1 share 2 more, 1 and 2 one more.
CONCEPTS = [
    [0, 1, 2, 3, 4, 5, 10, 11, 12, 13],
    [0, 1, 2, 3, 4, 5, 6, 14, 15, 16],
    [0, 1, 2, 3, 6, 17, 18, 19, 20, 21],
]
EXPECTED = [(4, 2, 4), (4, 3, 3), (4, 1, 5)]


def dictionaries() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.eye(22)[torch.tensor(concepts)[torch.randperm(10, generator=generator)]]
        for concepts in CONCEPTS
    ]


@pytest.mark.parametrize("seed", range(3))
def test_three_planted_seeds(seed: int) -> None:
    rows = dictionaries()
    masks = torch.stack(
        [
            shared_latents(rows[seed], rows[seed], other, other).shared
            for t, other in enumerate(rows)
            if t != seed
        ]
    )
    found = share_classes(masks)
    assert tuple(int(mask.sum()) for mask in found) == EXPECTED[seed]
    concepts = rows[seed].argmax(1).tolist()
    known = [
        {i for i, c in enumerate(concepts) if c in CONCEPTS[t]}
        for t in range(3)
        if t != seed
    ]
    for mask, ids in zip(found, oracle.classes(known, 10), strict=True):
        assert set(mask.nonzero().flatten().tolist()) == ids
    stability = latent_stability(masks)
    assert float(stability.sum()) == 4 + EXPECTED[seed][1] / 2


def random_pair(seed: int) -> list[Tensor]:
    """Decoder and encoder of A [9, 4] and of B [7, 4]; many cosines exceed .7."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 4, generator=generator) for n in (9, 9, 7, 7)]


@pytest.mark.parametrize("seed", range(5))
def test_shared_by_matchings_equals_the_oracle(seed: int) -> None:
    dec_a, enc_a, dec_b, enc_b = random_pair(seed)
    enc_a, enc_b = dec_a + 0.3 * enc_a, dec_b + 0.3 * enc_b
    ids_a, ids_b = torch.tensor([0, 2, 3, 5, 7, 8]), torch.tensor([1, 2, 4, 5, 6])
    decoder, encoder = (
        with_latent_ids(match_rows(a[ids_a], b[ids_b]), ids_a, ids_b, n_a=9)
        for a, b in ((dec_a, dec_b), (enc_a, enc_b))
    )
    expected = oracle.shared_pairs(
        dec_a.tolist(),
        enc_a.tolist(),
        dec_b.tolist(),
        enc_b.tolist(),
        ids_a.tolist(),
        ids_b.tolist(),
    )
    mask = shared_mask(decoder, encoder)
    assert {
        (i, int(decoder.partner[i])) for i in mask.nonzero().flatten().tolist()
    } == (expected)
    from_b = shared_mask(seen_from_b(decoder, n_b=7), seen_from_b(encoder, n_b=7))
    assert set(from_b.nonzero().flatten().tolist()) == {j for _, j in expected}
    left_out = [i for i in range(9) if i not in ids_a.tolist()]
    assert (decoder.partner[left_out] == -1).all()


def test_a_matching_seen_from_b_and_back_is_itself() -> None:
    a, _, b, _ = random_pair(0)
    found = match_rows(a, b)
    back = seen_from_b(seen_from_b(found, n_b=7), n_b=9)
    assert back.partner.tolist() == found.partner.tolist()
    assert back.similarity.tolist() == found.similarity.tolist()
    assert back.gap == found.gap
    assert all(map(torch.equal, back.best, found.best))


def test_a_third_is_at_least_a_third() -> None:
    masks = torch.zeros(3, 4, dtype=torch.bool)
    masks[:1, 1], masks[:2, 2], masks[:, 3] = True, True, True
    stability = latent_stability(masks)
    for minimum, expected in ((1 / 3, [1, 2, 3]), (2 / 3, [2, 3]), (1.0, [3])):
        chosen = stable_mask(stability, minimum=minimum)
        assert chosen.nonzero().flatten().tolist() == expected
    with pytest.raises(ValueError, match="minimum"):
        stable_mask(stability, minimum=0.0)


def test_a_stability_needs_another_seed() -> None:
    with pytest.raises(ValueError, match="n_others"):
        latent_stability(torch.zeros(0, 4, dtype=torch.bool))
