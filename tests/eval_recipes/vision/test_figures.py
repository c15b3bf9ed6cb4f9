"""Figures of one SAE on images, against plain loops over the images that are left."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from torch import Tensor

from eval_recipes.statistics.blocks import blocks_of
from eval_recipes.vision.figures import (
    curve_figures,
    mean_values,
    probe_figures,
    purity_figures,
    reconstruction_figures,
    score_values,
)
from eval_recipes.vision.probe import curve_area, probe_answers
from eval_recipes.vision.tally import ImageTally
from saereg_plugin.metrics import Codes, shuffled_labels
from tests.oracles import vision_oracle as oracle

IMAGES, ROWS, D_IN, D_SAE, K = 24, 3, 8, 20, 4
BLOCKS = blocks_of(IMAGES, 6)


def alternate(n: int) -> Tensor:
    """Every other image, from the first on."""
    return torch.arange(n) % 2 == 0


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def sae() -> Any:
    torch.manual_seed(0)
    sae = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K))
    with torch.no_grad():
        sae.W_enc.copy_(gaussian(D_IN, D_SAE, seed=1))
        sae.W_dec.copy_(sae.W_enc.T / 4)
    return sae


@pytest.fixture(scope="module")
def activations() -> Tensor:
    return gaussian(IMAGES, ROWS, D_IN, seed=2) + 0.5


@pytest.fixture(scope="module")
def keep() -> Tensor:
    keep = torch.ones(IMAGES, ROWS, dtype=torch.bool)
    keep[::4, 2] = False
    return keep


def tallied(
    sae: Any, activations: Tensor, keep: Tensor, pool: Any = "max"
) -> ImageTally:
    """A tally over passes of 5 images, which do not end where blocks end."""
    tally = ImageTally(sae, BLOCKS, ks=(1, 2, 8, 64), pool=pool)
    for x, kept in zip(activations.split(5), keep.split(5), strict=True):
        tally.update(x, kept)
    return tally


def left(block: slice | None) -> list[int]:
    """Numbers of the images without a block."""
    gone = set() if block is None else set(range(IMAGES)[block])
    return [n for n in range(IMAGES) if n not in gone]


def test_reconstruction_is_that_of_the_kept_rows(
    sae: Any, activations: Tensor, keep: Tensor
) -> None:
    figures = reconstruction_figures(tallied(sae, activations, keep), BLOCKS)
    x = activations[keep]
    with torch.no_grad():
        acts = sae.encode(x)
        made = sae.decode(acts)
    whole, each = oracle.r2(x.tolist(), made.tolist())
    wanted = {
        "r2": whole,
        "r2_per_dimension": each,
        "nmse": oracle.nmse(x.tolist(), made.tolist()),
        "l0": float((acts != 0).sum(1).double().mean()),
        "dead_fraction": float(((acts != 0).sum(0) == 0).double().mean()),
    }
    assert {k: v and v.value for k, v in figures.items()} == pytest.approx(wanted)
    for name in ("r2", "nmse"):
        interval = figures[name]
        assert interval is not None and interval.n == IMAGES
        low, high = interval.ends
        assert low < wanted[name] < high


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_codes_of_images_are_pooled_over_their_kept_rows(
    sae: Any, activations: Tensor, keep: Tensor, pool: str
) -> None:
    codes = tallied(sae, activations, keep, pool).codes
    dense = codes.selected.to_coo(codes.values).to_dense()
    for n in range(IMAGES):
        with torch.no_grad():
            acts = sae.encode(activations[n][keep[n]])
        wanted = acts.amax(0) if pool == "max" else acts.mean(0)
        torch.testing.assert_close(dense[n], wanted)


def test_the_curve_selects_k_latents(
    sae: Any, activations: Tensor, keep: Tensor
) -> None:
    figures = curve_figures(tallied(sae, activations, keep), (1, 2, 8, 64))
    x = activations[keep]
    for k in (1, 2, 8):
        other = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=k))
        other.load_state_dict(sae.state_dict())
        with torch.no_grad():
            made = other(x)
        found = figures[f"nmse_at_{k}"]
        assert found is not None
        wanted = oracle.nmse(x.tolist(), made.tolist())
        assert found.value == pytest.approx(wanted, rel=1e-5)
    assert figures["nmse_at_64"] is None
    assert sae.activation_fn.k == K


def test_the_curve_of_rescaled_activations_selects_by_them(
    activations: Tensor, keep: Tensor
) -> None:
    def rescaled(k: int) -> Any:
        cfg = TopKSAEConfig(
            d_in=D_IN, d_sae=D_SAE, k=k, rescale_acts_by_decoder_norm=True
        )
        made = TopKSAE(cfg)
        with torch.no_grad():
            made.W_enc.copy_(gaussian(D_IN, D_SAE, seed=1))
            norms = torch.linspace(0.1, 2, D_SAE)[:, None]
            made.W_dec.copy_(norms * gaussian(D_SAE, D_IN, seed=8))
        return made

    figures = curve_figures(tallied(rescaled(K), activations, keep), (1, 2, 8))
    x = activations[keep]
    for k in (1, 2, 8):
        with torch.no_grad():
            wanted = oracle.nmse(x.tolist(), rescaled(k)(x).tolist())
        found = figures[f"nmse_at_{k}"]
        assert found is not None and found.value == pytest.approx(wanted, rel=1e-5)


def test_the_curve_of_other_saes_cuts_their_codes(
    activations: Tensor, keep: Tensor
) -> None:
    torch.manual_seed(0)
    sae: Any = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=D_SAE))
    with torch.no_grad():
        sae.W_enc.copy_(gaussian(D_IN, D_SAE, seed=1))
        sae.W_dec.copy_(sae.W_enc.T / 4)
    figures = curve_figures(tallied(sae, activations, keep), (1, 2, 8))
    x = activations[keep]
    for k in (1, 2, 8):
        with torch.no_grad():
            cut = sae.encode(x)
            for row in cut:
                row[row < row.sort(descending=True).values[k - 1]] = 0
            wanted = oracle.nmse(x.tolist(), sae.decode(cut).tolist())
        found = figures[f"nmse_at_{k}"]
        assert found is not None and found.value == pytest.approx(wanted, rel=1e-5)


def test_a_reconstruction_that_is_not_finite_is_refused(
    sae: Any, activations: Tensor, keep: Tensor
) -> None:
    broken = activations.clone()
    broken[3] = math.inf
    with pytest.raises(ValueError, match="NaN or infinity"):
        tallied(sae, broken, keep)


def random_codes(seed: int, *, images: int = IMAGES) -> tuple[Tensor, Codes]:
    generator = torch.Generator().manual_seed(seed)
    acts = torch.rand(images, D_SAE, generator=generator, dtype=torch.float64)
    acts *= torch.rand(images, D_SAE, generator=generator) < 0.4
    return acts, Codes.of(acts)


def test_scores_without_each_block_are_those_of_the_other_images() -> None:
    acts, codes = random_codes(3)
    embeddings = gaussian(IMAGES, 6, seed=4).double() + 0.7
    found = score_values(codes, embeddings, BLOCKS)
    for place, block in enumerate((None, *BLOCKS)):
        rest = left(block)
        rows = embeddings[rest].tolist()
        scores = [oracle.monosemanticity(c, rows) for c in acts[rest].T.tolist()]
        assert found.values["score"][0][place] == pytest.approx(np.nanmean(scores))
        floor = oracle.mean_cosine(rows)
        assert found.values["floor"][0][place] == pytest.approx(floor)
        assert found.values["normalised"][0][place] == pytest.approx(
            (np.nanmean(scores) - floor) / (1 - floor)
        )
    centred = (embeddings - embeddings.mean(0)).tolist()
    scores = [oracle.monosemanticity(c, centred) for c in acts.T.tolist()]
    assert found.values["centred"][0][0] == pytest.approx(np.nanmean(scores))
    assert found.values["score"][1] == D_SAE
    again = mean_values([found.values, found.values])
    np.testing.assert_allclose(again["score"][0], found.values["score"][0])


def test_purity_without_each_block_is_that_of_the_other_images() -> None:
    acts, codes = random_codes(5)
    labels = torch.randint(0, 3, (IMAGES,), generator=torch.Generator().manual_seed(6))
    found = purity_figures(
        codes, labels, 3, BLOCKS, first=alternate(IMAGES), shuffles=2, seed=0
    )
    values = []
    for block in (None, *BLOCKS):
        rest = left(block)
        each = [
            oracle.purity(column, labels[rest].tolist())
            for column in acts[rest].T.tolist()
        ]
        values.append(np.nanmean(each, axis=0))
    binary, weighted = found.figures["binary"], found.figures["weighted"]
    assert binary is not None and weighted is not None
    assert (binary.value, weighted.value) == pytest.approx(tuple(values[0]))
    spread = np.var([v[0] for v in values[1:]]) * (len(BLOCKS) - 1)
    low, high = binary.ends
    assert (high - low) / 2 == pytest.approx(2.5706 * math.sqrt(spread), rel=1e-4)
    assert found.of_latents["images"].tolist() == (acts != 0).sum(0).tolist()


def test_floors_and_held_out_purity_are_those_of_plain_loops() -> None:
    acts, codes = random_codes(5)
    labels = torch.randint(0, 3, (IMAGES,), generator=torch.Generator().manual_seed(6))
    found = purity_figures(
        codes, labels, 3, BLOCKS, first=alternate(IMAGES), shuffles=2, seed=0
    )
    columns = acts.T.tolist()

    def means(order: list[int]) -> list[float]:
        both = np.nanmean([oracle.purity(c, order) for c in columns], axis=0)
        held_out = np.nanmean([oracle.held_out_purity(c, order) for c in columns])
        return [*both.tolist(), float(held_out)]

    real = means(labels.tolist())
    orders = shuffled_labels(labels, 2, seed=0)
    assert all(sorted(o.tolist()) == sorted(labels.tolist()) for o in orders)
    chance = np.mean([means(order.tolist()) for order in orders], axis=0)
    wanted = {
        "held_out": real[2],
        "floor": chance[0],
        "weighted_floor": chance[1],
        "held_out_floor": chance[2],
        "above_floor": real[0] - chance[0],
    }
    for name, value in wanted.items():
        figure = found.figures[name]
        assert figure is not None and figure.value == pytest.approx(value), name


def planted_classes(n: int = 400) -> tuple[Codes, Tensor]:
    """Codes whose largest entry names the class, and whose other entries say nothing."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(0, 4, (n,), generator=generator)
    acts = 0.3 * torch.rand(n, 40, generator=generator)
    acts[:, :4] = 0
    acts[torch.arange(n), labels] = 1 + torch.rand(n, generator=generator)
    return Codes.of(acts), labels


def test_a_class_in_the_largest_entry_is_found_at_every_cut() -> None:
    codes, labels = planted_classes()
    figures, converged = probe_figures(
        codes,
        labels,
        blocks_of(400, 10),
        first=alternate(400),
        iterations=500,
        ks=(1, 32),
    )
    assert converged
    area, chance, accuracy = (
        figures[name] for name in ("probe_area", "probe_chance", "probe_accuracy")
    )
    assert area is not None and chance is not None and accuracy is not None
    assert accuracy.value == 1.0
    assert area.value == pytest.approx(31 / 32)
    for k in (1, 32):
        at = figures[f"probe_at_{k}"]
        assert at is not None and (at.value, at.n) == (1.0, 200)
    assert 0.2 < chance.value < 0.35
    assert area.n == 200


def test_cut_codes_are_scored_as_the_probe_scores_them() -> None:
    codes, labels = planted_classes(60)
    acts = codes.selected.to_coo(codes.values).to_dense().double()
    answers = probe_answers(codes, labels, first=alternate(60), iterations=500)
    curve, _ = probe_figures(
        codes,
        labels,
        blocks_of(60, 5),
        first=alternate(60),
        iterations=500,
        ks=(1, 3, 32),
    )
    # by hand: the same regression on dense codes that are cut one by one
    from sklearn.linear_model import LogisticRegression

    scale = acts[0::2].amax(0)
    scale[scale == 0] = 1
    probe = LogisticRegression(max_iter=500).fit(
        (acts / scale)[0::2].numpy(), labels[0::2].numpy()
    )
    for k in (1, 3, 32):
        cut = torch.zeros_like(acts)
        top = acts.topk(k, dim=1)
        cut.scatter_(1, top.indices, top.values)
        wanted = probe.predict((cut / scale)[1::2].numpy()) == labels[1::2].numpy()
        assert (answers.right[k - 1] == wanted).all()
        at = curve[f"probe_at_{k}"]
        assert at is not None and at.value == pytest.approx(wanted.mean())


def test_the_area_is_that_of_the_trapezoids() -> None:
    right = np.zeros((32, 2), dtype=bool)
    right[16:, 0] = True
    assert curve_area(right) == pytest.approx((15 * 0.5 + 0.25) / 32)
    assert math.isnan(curve_area(right[:, :0]))


def test_two_classes_and_one_class() -> None:
    codes, labels = planted_classes(80)
    found = probe_answers(codes, labels % 2, first=alternate(80), iterations=500)
    assert found.right_whole.all()
    with pytest.raises(ValueError, match="class"):
        probe_answers(codes, labels * 0, first=alternate(80), iterations=500)
