"""Pairs of SAEs with known answers, and pairs that were never trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval_recipes.cross_seed.pairs import Match
from eval_recipes.studies.mnist.autoencoder import Weights, initial_weights
from eval_recipes.studies.mnist.pairs import (
    by_position,
    measure_baselines,
    measure_pair,
    random_weights,
)
from eval_recipes.studies.mnist.settings import SETTINGS, Training
from saereg_plugin.metrics import match_rows

BY_NAME = {setting.name: setting for setting in SETTINGS}
TIED = BY_NAME["tied"]


def test_by_position_undercounts_where_a_has_more_latents() -> None:
    a = torch.eye(4)
    # latents 1 and 2 of A are 0 and 1 of B; its latent 2 decodes to A's 3, encodes A's 0
    decoder, encoder = a[[1, 2, 3]], a[[1, 2, 0]]
    found = Match.of(match_rows(a, decoder), match_rows(a, encoder), threshold=0.7)
    assert found.shared.tolist() == [False, True, True, False]
    assert by_position(found, 3) == 0
    turned = Match.of(match_rows(decoder, a), match_rows(encoder, a), threshold=0.7)
    assert turned.shared.tolist() == [True, True, False]
    assert by_position(turned, 3) == pytest.approx(2 / 3)
    assert by_position(turned, 0) == 0


def test_shared_of_alive_is_over_the_smaller_number_of_alive_latents() -> None:
    eye = torch.eye(20)
    # 8 of 12 latents alive in one SAE, all 12 in the other; 6 alive ones are shared
    few = Weights(torch.cat([eye[:8], eye[12:16]]), eye[:12])
    rows = torch.cat([eye[:6], eye[14:20]])
    for pair in (
        measure_pair(few, Weights(rows, rows)),
        measure_pair(Weights(rows, rows), few),
    ):
        assert pair.figures["shared_alive"].value == 0.75
        assert pair.figures["shared_alive"].n == 8
        assert pair.figures["shared"].value == 0.5
        assert set(pair.gaps) >= {"decoder", "encoder", "decoder_alive"}
        assert set(pair.gaps.values()) == {0.0}


def test_nothing_alive_gives_no_share_of_alive() -> None:
    eye = torch.eye(8)
    dead = Weights(eye[:4], eye[4:])
    pair = measure_pair(dead, dead)
    assert "shared_alive" not in pair.figures
    assert pair.figures["shared"].value == 1
    assert set(pair.as_published) == {"mean_max_cos", "paired", "shared"}


def test_a_vanishing_vector_is_like_nothing_as_published() -> None:
    eye = torch.eye(20)
    kept = Weights(eye[:4], eye[:4])
    scale = torch.tensor([1.0, 1.0, 1e-8, 1e-12])[:, None]
    pair = measure_pair(kept, Weights(eye[:4] * scale, eye[:4]))
    assert pair.figures["shared"].value == 1
    assert pair.figures["mean_max_cos"].value == 1
    assert pair.figures["shared_alive"].value == 1
    # cosines of encoders: 1, 1, 1 / 2, 1e-4
    assert pair.as_published["mean_max_cos"] == pytest.approx((1 + 2.5001 / 4) / 2)
    assert pair.as_published["shared"] == 0.5
    assert pair.as_published["paired"] == 1
    # three of its latents are alive, of which two are shared
    assert pair.as_published["shared_alive"] == pytest.approx(2 / 3)


def test_the_larger_sae_can_be_put_first() -> None:
    a = torch.eye(16)
    # latents 1 and 2 of A are 0 and 1 of B, whose latent 2 decodes to A's 3 and encodes to A's
    # 0; its latent 3 is dead
    large = Weights(a[:4], a[:4])
    small = Weights(
        torch.cat([a[1:3], 0.9 * a[[0]] + 0.4 * a[[3]], a[[5]]]),
        torch.cat([a[1:3], 0.4 * a[[0]] + 0.9 * a[[3]], a[[6]]]),
    )
    for pair, first in (
        (measure_pair(large, small), 0),
        (measure_pair(small, large), 2 / 3),
    ):
        assert pair.figures["shared_alive"].value == pytest.approx(2 / 3)
        assert pair.as_published["shared_alive"] == pytest.approx(first)
        assert pair.as_published["shared_alive_larger_first"] == 0


def mean_max_cos(a: Weights, b: Weights) -> float:
    """Plainly, in float64, of decoder and encoder and both directions."""
    found: list[float] = []
    for one, other in ((a.dec, b.dec), (a.enc, b.enc)):
        rows, columns = (
            matrix.double() / matrix.double().norm(dim=1, keepdim=True)
            for matrix in (one, other)
        )
        cosines = (rows @ columns.T).abs()
        found += [float(cosines.amax(dim=axis).mean()) for axis in (0, 1)]
    return float(np.mean(found))


def test_baselines_are_untrained_pairs_of_the_same_shape() -> None:
    training = Training(d_sae=50)
    seeds = [(0, 1), (0, 2)]
    settings = [BY_NAME[name] for name in ("tied", "untied-l1", "untied")]
    random, untied, tied = measure_baselines(settings, seeds, training)
    assert [one.name for one in (random, untied, tied)] == [
        "random",
        "untied-start",
        "tied-start",
    ]
    assert [*random.pairs] == [(0, 1)]
    a, b = (random_weights(50, seed=seed) for seed in (0, 1))
    assert not torch.equal(a.enc, a.dec)
    figures = random.pairs[0, 1].figures
    assert figures["mean_max_cos"].value == pytest.approx(mean_max_cos(a, b), abs=1e-6)
    for found, setting in ((untied, BY_NAME["untied"]), (tied, TIED)):
        assert [*found.pairs] == seeds
        starts = [initial_weights(setting, training, seed=seed) for seed in (0, 2)]
        figures = found.pairs[0, 2].figures
        assert figures["mean_max_cos"].value == pytest.approx(
            mean_max_cos(*starts), abs=1e-6
        )
        assert figures["shared"].value == 0
    # a tied start has every latent alive
    assert tied.pairs[0, 1].figures["shared_alive"].n == 50
    assert measure_baselines(settings, [], training) == []
