"""Monosemanticity scores against the pair loop, planted codes, and their NaN rules."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saereg_plugin.metrics import (
    Codes,
    CodesBuffer,
    left_out_sums,
    normalised,
    score_sums,
    unit_embeddings,
)
from tests.oracles import vision_oracle as oracle


def drawn(images: int, d_sae: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sparse activations [images, d_sae] and embeddings [images, d] near one direction."""
    generator = torch.Generator().manual_seed(seed)
    acts = torch.rand(images, d_sae, generator=generator)
    acts *= torch.rand(images, d_sae, generator=generator) < 0.4
    embeddings = torch.randn(images, d, generator=generator, dtype=torch.float64) + 1
    return acts, embeddings


def by_pairs(acts: Tensor, embeddings: Tensor) -> list[float]:
    rows = embeddings.tolist()
    return [oracle.monosemanticity(column, rows) for column in acts.T.tolist()]


def assert_same(scores: Tensor, wanted: list[float]) -> None:
    assert scores.isnan().tolist() == [math.isnan(score) for score in wanted]
    torch.testing.assert_close(
        scores,
        torch.tensor(wanted, dtype=torch.float64),
        rtol=1e-9,
        atol=1e-12,
        equal_nan=True,
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10_000), st.sampled_from([0.0, 0.3, -0.7]))
def test_one_pass_gives_the_score_of_the_pair_loop(
    images: int, seed: int, shift: float
) -> None:
    acts, embeddings = drawn(images, 6, 5, seed)
    # latents 0 to 2 keep their zeros; the others never fire at 0, some below it
    acts[:, 3:] += shift
    acts[:, 4] = acts[:, 3].abs() + 1.5
    unit = unit_embeddings(embeddings)
    scores = score_sums(Codes.of(acts), unit).scores()
    assert_same(scores, by_pairs(acts, embeddings))


def test_a_latent_without_a_pair_has_no_score() -> None:
    _, embeddings = drawn(5, 1, 4, 0)
    acts = torch.zeros(5, 5)
    acts[2, 1] = 3.0
    acts[:, 2] = 0.7
    acts[:, 3] = torch.tensor([0.2, 0.2, 0.9, 0.2, 0.2])
    acts[:2, 4] = torch.tensor([1e-6, 5.0])
    scores = score_sums(Codes.of(acts), unit_embeddings(embeddings)).scores()
    # never, once, constant, once above its minimum; two images are a pair
    assert scores.isnan().tolist() == [True, True, True, True, False]
    cosine = oracle.cosine(*embeddings[:2].tolist())
    assert scores[4].item() == pytest.approx(cosine, rel=1e-6)


def test_sums_of_two_shards_add_up() -> None:
    acts, embeddings = drawn(15, 8, 4, 3)
    acts[:, 5] += 0.4
    codes, unit = Codes.of(acts), unit_embeddings(embeddings)
    whole = score_sums(codes, unit)
    halves = [
        score_sums(codes.rows(rows), unit[rows]) for rows in (slice(0, 6), slice(6, 15))
    ]
    merged = halves[0] + halves[1]
    assert merged.images == 15
    torch.testing.assert_close(merged.scores(), whole.scores(), equal_nan=True)
    assert torch.equal(merged.at_lowest, whole.at_lowest)
    assert merged.floor() == pytest.approx(whole.floor(), rel=1e-12)


def test_leaving_out_a_block_is_scoring_the_others() -> None:
    acts, embeddings = drawn(12, 8, 4, 4)
    codes, unit = Codes.of(acts), unit_embeddings(embeddings)
    blocks = [slice(0, 4), slice(4, 8), slice(8, 12)]
    found = list(left_out_sums(codes, unit, blocks))
    assert_same(found[0].scores(), by_pairs(acts, embeddings))
    for block, sums in zip(blocks, found[1:], strict=True):
        rest = [n for n in range(12) if n not in range(12)[block]]
        assert_same(sums.scores(), by_pairs(acts[rest], embeddings[rest]))
        assert sums.floor() == pytest.approx(
            oracle.mean_cosine(embeddings[rest].tolist()), rel=1e-9
        )


def test_planted_latents_have_known_scores() -> None:
    """Images of three classes, whose embeddings are three orthogonal axes."""
    labels = torch.arange(12) % 3
    embeddings = torch.eye(3)[labels]
    acts = torch.stack(
        [(labels == 1) * 2.0, (labels < 2) * 1.0, torch.arange(12.0) + 1], dim=1
    )
    scores = score_sums(Codes.of(acts), unit_embeddings(embeddings)).scores()
    # of 28 pairs of two classes 12 are within one class
    assert scores[:2].tolist() == pytest.approx([1.0, 12 / 28])
    scaled = [float(n) for n in range(12)]
    wanted = oracle.weighted_cosine(scaled, embeddings.tolist())
    assert scores[2].item() == pytest.approx(wanted)


def test_random_latents_score_at_the_floor_and_centring_moves_it_to_0() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(600, 16, generator=generator) + 1.0
    acts = (torch.rand(600, 40, generator=generator) < 0.2).float()
    for centred, wanted in ((False, 0.5), (True, 0.0)):
        sums = score_sums(Codes.of(acts), unit_embeddings(embeddings, centred=centred))
        assert sums.floor() == pytest.approx(wanted, abs=0.05)
        assert sums.scores().mean().item() == pytest.approx(sums.floor(), abs=0.01)
        assert normalised(sums.floor(), sums.floor()) == 0
    assert math.isnan(normalised(1.0, 1.0))


def test_the_floor_is_the_mean_cosine_of_pairs() -> None:
    acts, embeddings = drawn(7, 2, 3, 9)
    sums = score_sums(Codes.of(acts), unit_embeddings(embeddings))
    wanted = oracle.mean_cosine(embeddings.tolist())
    assert sums.floor() == pytest.approx(wanted, rel=1e-12)
    alone = score_sums(Codes.of(acts[:1]), unit_embeddings(embeddings[:1]))
    assert math.isnan(alone.floor())


def test_an_embedding_of_0_is_named() -> None:
    embeddings = torch.ones(4, 3)
    embeddings[2] = 0
    with pytest.raises(ValueError, match="embedding of image 2 is 0"):
        unit_embeddings(embeddings)


def test_codes_cut_to_the_largest() -> None:
    acts = torch.tensor(
        [[3.0, 0.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 5.0]]
    )
    codes = Codes.of(acts)
    assert codes.ranks.tolist() == [0, 2, 1, 1, 2, 3, 0]
    cut = codes.largest(2)
    assert len(cut) == 3
    dense = cut.selected.to_coo(cut.values).to_dense()
    assert dense.tolist() == [[3, 0, 0, 2], [0, 0, 0, 0], [1, 0, 0, 5]]
    parts = CodesBuffer(4)
    for rows in (slice(0, 1), slice(1, 3)):
        parts.add(codes.rows(rows))
    joined = parts.joined()
    assert torch.equal(joined.selected.row_offsets, codes.selected.row_offsets)
    assert torch.equal(joined.latents, codes.latents)
    assert joined.counts().tolist() == [2, 1, 2, 2]
