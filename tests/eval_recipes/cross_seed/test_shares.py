"""What stable latents carry: against plain numpy, planted shares, and on a real model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from torch import Tensor
from transformer_lens import HookedTransformer

from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import Weights, measure_pair
from eval_recipes.cross_seed.reconstruction_share import (
    ReconstructionShare,
    _ShareTally,
    reconstruction_shares,
)
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout import measure_heldout
from eval_recipes.running.heldout_pass import Passed, _context_sums
from eval_recipes.statistics.interval import NO_VARIATION, concatenate
from tests.conftest import HOOK_NAME
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae
from tests.oracles import cross_seed_oracle as oracle


def measured(sae: Any, x: Tensor, stable: Tensor, keep: Tensor) -> ReconstructionShare:
    """Shares over activations [contexts, tokens, d_in], given in two batches."""
    tally = _ShareTally(sae, stable)
    kept, special = [], []
    with torch.no_grad():
        for part, mask in zip(x.split(3), keep.split(3), strict=True):
            tally.update(part, mask)
            kept.append(_context_sums(part, mask))
            special.append(_context_sums(part, ~mask))
    return tally.result(
        Passed(
            concatenate(kept),
            concatenate(special),
            x.shape[1],
            torch.zeros(keep.shape, dtype=torch.int32),
        ),
        seed=0,
    )


def topk(*, rescale: bool = False, normalize: str = "none") -> Any:
    cfg = TopKSAEConfig(
        d_in=6,
        d_sae=12,
        k=4,
        rescale_acts_by_decoder_norm=rescale,
        normalize_activations=normalize,  # type: ignore[arg-type]
    )
    sae = TopKSAE(cfg)
    generator = torch.Generator().manual_seed(0)
    sae.W_dec.data = torch.randn(12, 6, generator=generator)
    sae.W_enc.data = sae.W_dec.data.T.clone()
    sae.b_dec.data = torch.randn(6, generator=generator)
    return sae


def text(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(5, 7, 6, generator=generator) + 1
    keep = torch.ones(5, 7, dtype=torch.bool)
    keep[:, 0] = False
    return x, keep


@pytest.mark.parametrize("rescale", [False, True])
def test_equals_plain_numpy(rescale: bool) -> None:
    sae, (x, keep) = topk(rescale=rescale), text()
    stable = torch.arange(12) % 3 == 0
    found = measured(sae, x, stable, keep)
    flat = x[keep]
    with torch.no_grad():
        z = sae.encode(flat)
    dec = (
        sae.W_dec.data / sae.W_dec.data.norm(dim=1, keepdim=True)
        if rescale
        else sae.W_dec.data
    )
    expected = oracle.reconstruction_shares(
        flat.tolist(), z.tolist(), dec.tolist(), sae.b_dec.tolist(), {0, 3, 6, 9}
    )
    assert set(found.figures) == set(expected)
    for name, value in expected.items():
        figure = found.figures[name]
        assert figure is not None
        assert figure.value == pytest.approx(value, rel=1e-4, abs=1e-6), name
        assert figure.low is not None and figure.high is not None
        assert figure.low <= figure.value <= figure.high
        assert figure.n == 5
    assert found.n_tokens == 30


def test_planted_shares_are_recovered() -> None:
    """
    Orthonormal latents; two stable ones of activations +-a, two unstable of +-b, uncorrelated.

    The variance splits as 2 a^2 : 2 b^2, squared contributions likewise.
    """
    a, b = 3.0, 1.0
    sae = StandardSAE(StandardSAEConfig(d_in=4, d_sae=8))
    rows = torch.cat([torch.eye(4), -torch.eye(4)])
    sae.W_dec.data, sae.W_enc.data = rows.clone(), rows.T.clone()
    sae.b_enc.data.zero_()
    sae.b_dec.data = torch.tensor([5.0, -2.0, 0.0, 1.0])
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    x = signs * torch.tensor([a, a, b, b]) + sae.b_dec.data
    stable = torch.tensor([True, True, False, False] * 2)
    x = x.expand(4, 16, 4).clone()
    keep = torch.ones(4, 16, dtype=torch.bool)
    figures = measured(sae, x, stable, keep).figures
    share = a**2 / (a**2 + b**2)
    for name, value in {
        "explained_variance_stable": share,
        "explained_variance_unstable": 1 - share,
        "variance_share_stable": share,
        "contribution_share_stable": share,
        "firing_share_stable": 0.5,
    }.items():
        figure = figures[name]
        assert figure is not None
        assert figure.value == pytest.approx(value, abs=1e-6), name
        # the contexts are equal: so is every resample, which shows no spread
        assert figure[1:] == (None, None, 4, NO_VARIATION), name


def test_all_and_none_stable() -> None:
    sae, (x, keep) = topk(), text()
    every = measured(sae, x, torch.ones(12, dtype=torch.bool), keep).figures
    none = measured(sae, x, torch.zeros(12, dtype=torch.bool), keep).figures
    for name, ends in {
        "variance_share_stable": (1.0, 0.0),
        "contribution_share_stable": (1.0, 0.0),
        "firing_share_stable": (1.0, 0.0),
    }.items():
        assert [f[name].value for f in (every, none)] == pytest.approx(ends)  # type: ignore[union-attr]
    for one, other in (("stable", "unstable"), ("unstable", "stable")):
        mine, theirs = (f"explained_variance_{side}" for side in (one, other))
        assert every[mine].value == pytest.approx(none[theirs].value)  # type: ignore[union-attr]


def turned(sae: Any, latents: Tensor) -> Any:
    """The same SAE with encoder and decoder of some latents times -1."""
    other = topk()
    signs = torch.where(latents, -1.0, 1.0)
    other.W_dec.data = sae.W_dec.data * signs[:, None]
    other.W_enc.data = sae.W_enc.data * signs
    return other


def test_order_of_latents_does_not_matter() -> None:
    sae, (x, keep) = topk(), text()
    stable = torch.arange(12) % 2 == 0
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    other = topk()
    other.W_dec.data = sae.W_dec.data[order].clone()
    other.W_enc.data = sae.W_enc.data[:, order].clone()
    first = measured(sae, x, stable, keep).figures
    second = measured(other, x, stable[order], keep).figures
    for name, figure in first.items():
        assert second[name][:3] == pytest.approx(figure[:3])  # type: ignore[index]


def test_signs_of_another_seeds_latents_do_not_matter() -> None:
    """
    Whether a latent is stable is a matter of |cosines|, so its partners may be turned over.

    A latent of the SAE itself may not: turned over it fires on other text.
    """
    sae, (x, keep) = topk(), text()
    seed = topk()
    seed.W_dec.data[6:] = torch.randn(6, 6, generator=torch.Generator().manual_seed(7))
    seed.W_enc.data = seed.W_dec.data.T.clone()
    flipped = torch.arange(12) % 2 == 0
    own, as_is, turned_over = (
        Weights.of(one.W_enc, one.W_dec, alive_threshold=0.1)
        for one in (sae, seed, turned(seed, flipped))
    )
    stable = [
        measure_pair(own, partner, CrossSeedEvalConfig()).match[0].shared
        for partner in (as_is, turned_over)
    ]
    assert torch.equal(*stable) and 6 <= stable[0].sum() < 12
    first, second = (measured(sae, x, mask, keep).figures for mask in stable)
    assert first == second
    third = measured(turned(sae, flipped), x, stable[0], keep).figures
    assert third["contribution_share_stable"] != first["contribution_share_stable"]


def test_signs_of_latents_and_activations_together_do_not_matter() -> None:
    """All latents turned over fire as before on activations mirrored at the bias."""
    sae, (x, keep) = topk(), text()
    stable = torch.arange(12) % 2 == 0
    first = measured(sae, x, stable, keep).figures
    every = torch.ones(12, dtype=torch.bool)
    mirrored = 2 * sae.b_dec.data - x
    second = measured(turned(sae, every), mirrored, stable, keep).figures
    for name, figure in first.items():
        other = second[name]
        assert figure is not None and other is not None
        assert other[:3] == pytest.approx(figure[:3], rel=1e-4), name


def test_layer_norm_is_undone() -> None:
    """Each decoding needs the norms that encoding kept: all latents give the whole."""
    sae, (x, keep) = topk(normalize="layer_norm"), text()
    every = measured(sae, x, torch.ones(12, dtype=torch.bool), keep).figures
    flat = x[keep]
    with torch.no_grad():
        x_hat = sae.decode(sae.encode(flat)).double()
    residual = float(((flat.double() - x_hat) ** 2).sum())
    total = float(((flat.double() - flat.double().mean(0)) ** 2).sum())
    figure = every["explained_variance_stable"]
    assert figure is not None
    assert figure.value == pytest.approx(1 - residual / total)


def test_nothing_fires() -> None:
    sae, (x, keep) = topk(), text()
    sae.b_enc.data.fill_(-1e6)
    figures = measured(sae, x, torch.arange(12) < 3, keep).figures
    for name in ("variance_share_stable", "contribution_share_stable"):
        assert figures[name] is None
    assert figures["explained_variance_stable"] is not None


def test_latents_that_fire_in_few_contexts_have_no_interval() -> None:
    """Everything fires in 2 of 5 contexts: (3/5)^5 = 8 % of resamples hold neither."""
    sae, (x, keep) = topk(), text()
    sae.b_enc.data.fill_(-50.0)
    x[:2] += 100 * sae.W_dec.data[0]
    figures = measured(sae, x, torch.arange(12) % 2 == 0, keep).figures
    for name in ("contribution_share_stable", "firing_share_stable"):
        figure = figures[name]
        assert figure is not None and 0 < figure.value < 1
        assert (figure.low, figure.high) == (None, None), name
        assert figure.reason is not None
        count = int(figure.reason.removesuffix(" of 1000 resamples have no value"))
        assert 40 < count < 130
    whole = figures["explained_variance_stable"]
    assert whole is not None and whole.low is not None


def test_one_pass_on_a_real_model(
    tmp_path: Path, model_name: str, model: HookedTransformer, activations: Tensor
) -> None:
    mean = activations.mean(0)
    saes = {f"s{seed}": tiny_sae(model_name, HOOK_NAME, mean, seed) for seed in (0, 1)}
    broken = tiny_sae(model_name, HOOK_NAME, mean, 2)
    broken.W_enc.data[0, 5] = torch.nan
    subjects = save_release(tmp_path / "shares", {**saes, "broken": broken})
    context = RunContext(
        subjects, tmp_path / "out", heldout_tokens=640, batch_size_prompts=8
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    masks = {s.sae_id: torch.ones(D_SAE, dtype=torch.bool) for s in subjects}
    masks["s1"][::2] = False
    shares, causes = reconstruction_shares(context, masks, subjects, n_inputs=1000)
    assert set(shares) == {"s0", "s1"}
    assert "NaN" in causes["broken"]
    heldout = measure_heldout(context)
    whole = shares["s0"].share.figures["explained_variance_stable"]
    assert whole is not None
    assert whole.value == pytest.approx(heldout["s0"].explained_variance, rel=1e-5)
    assert whole.low == pytest.approx(heldout["s0"].explained_variance_ci_low, rel=1e-4)
    assert shares["s0"].share.n_tokens == heldout["s0"].n_tokens
    part = shares["s1"].share.figures["contribution_share_stable"]
    assert part is not None and 0 < part.value < 1
    assert np.isfinite(part.ends).all()


def test_memory_of_the_inputs_sums_is_bounded(
    tmp_path: Path, model_name: str, model: HookedTransformer, activations: Tensor
) -> None:
    mean = activations.mean(0)
    saes = {f"s{seed}": tiny_sae(model_name, HOOK_NAME, mean, seed) for seed in (0, 1)}
    subjects = save_release(tmp_path / "shares", saes)
    context = RunContext(
        subjects, tmp_path / "out", heldout_tokens=640, batch_size_prompts=8
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    masks = {s.sae_id: torch.arange(D_SAE) % 2 == 0 for s in subjects}
    passes: list[int] = []
    handle = model.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    try:
        together, _ = reconstruction_shares(context, masks, subjects, n_inputs=20)
        in_one = len(passes)
        # so that no rows of the text are kept between passes
        small = replace(context, memory_gib=1e-9)
        apart, _ = reconstruction_shares(small, masks, subjects, n_inputs=10**9)
    finally:
        handle.remove()
    assert len(passes) == 3 * in_one
    assert set(together) == set(apart)
    for sae_id, found in together.items():
        assert found.share == apart[sae_id].share
        assert torch.equal(found.firing.covariance, apart[sae_id].firing.covariance)
