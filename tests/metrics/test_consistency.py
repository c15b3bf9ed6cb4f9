import pytest
import torch
from torch import Tensor

from saereg_plugin.metrics import (
    latent_stability,
    pw_mcc,
    share_classes,
    shared_latents,
)
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


def test_a_stability_needs_another_seed() -> None:
    with pytest.raises(ValueError, match="n_others"):
        latent_stability(torch.zeros(0, 4, dtype=torch.bool))


def test_pw_mcc() -> None:
    eye = torch.eye(4)
    flipped = eye.clone()
    flipped[0] *= -1
    assert pw_mcc([eye, eye.flip(0)], signed=True) == 1
    assert pw_mcc([eye, flipped], signed=False) == 1
    # Row 0's best partners are now orthogonal: 2 of 4 rows match at 1, 2 at 0.
    assert pw_mcc([eye, flipped], signed=True) == 0.5
    three = pw_mcc([eye, eye, -eye], signed=True)
    assert three == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="two or more"):
        pw_mcc([eye], signed=True)
