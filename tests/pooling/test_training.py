"""Pools of a release: where they start, what they are compared with, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE

from saereg_plugin.errors import InputError
from saereg_plugin.pooling.start import fit_scale_, load_pool_
from saereg_plugin.pooling.training import (
    PoolPlan,
    plan_pool,
    require_alike,
    run_pool,
)
from saereg_plugin.pooling.union import unique_latents
from saereg_plugin.releases.opening import register_release
from saereg_plugin.releases.release import Release
from saereg_plugin.sweeps import SweepTrainer, run_sweep
from tests.revival.test_training import D_IN, D_SAE, KINDS, made, rows_of, saved
from tests.sweeps.tiny import BATCH, HOOK, PENALTY, STEPS, tiny_sweep
from tests.sweeps.tiny import SAE as TINY

UNIT = {**TINY, "decoder_constraint": "unit_norm", "d_sae": 96}
COMMON = 40
"""Latents that the planted seeds have in common."""


def planted(trainer: SweepTrainer) -> None:
    """
    Give every SAE directions of the data, of which the seeds have the first 40 in common.

    The learning rate keeps them there.
    """
    x = trainer.stream.peek()[HOOK].double()
    _, directions = torch.linalg.eigh(torch.cov(x.T))
    rows = directions.flip(1).T.float()
    # on both sides of the mean, so that each fires
    half, own = COMMON // 2, (96 - COMMON) // 2
    for name, each in trainer.trainers.items():
        seed = int(name[-1])
        places = [*range(half), *range(half + seed * own, half + (seed + 1) * own)]
        order = torch.randperm(96, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            both = torch.cat([rows[places], -rows[places]])[order]
            each.sae.W_dec.copy_(both)
            each.sae.W_enc.copy_(both.T)
            each.sae.b_dec.copy_(x.mean(0).float())


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Three seeds of 96 latents each, of which 40 are the same."""
    folder = tmp_path_factory.mktemp("pooling")
    sweep = tiny_sweep(
        sae={**UNIT, "k": 96, "normalize_activations": "none"},
        groups={"plain": {}, "l2": {"regularizers": [PENALTY]}},
        seeds=[0, 1, 2],
        lr=1e-12,
    )
    run_sweep(sweep, folder / "own", begin=planted)
    return register_release(folder / "own")


def plan_of(release: Release, **changes: Any) -> PoolPlan:
    assert release.folder is not None
    chosen: dict[str, Any] = {"steps": 3, "device": "cpu"}
    return plan_pool(release.folder, **{**chosen, **changes})


def test_planted_seeds_pool_to_their_union(release: Release) -> None:
    plan = plan_of(release)
    assert [pool.group for pool in plan.pools] == ["plain", "l2"]
    for pool in plan.pools:
        assert pool.seeds == (0, 1, 2)
        assert [len(ids) for ids in pool.latents.values()] == [96] * 3
        assert pool.union.width == COMMON + 3 * (96 - COMMON)
        assert pool.union.shared_by.bincount().tolist() == [0, 168, 0, COMMON]


def test_every_arm_has_its_width_seeds_and_tokens(release: Release) -> None:
    plan = plan_of(release, groups=["l2"], lr=1e-3)
    assert list(plan.sweeps) == ["pooled", "fresh", "l2-control"]
    for name, sweep in plan.sweeps.items():
        (group,) = sweep.groups
        assert group == f"l2-{name.removeprefix('l2-')}"
        assert sweep.groups[group]["d_sae"] == 208
        assert sweep.groups[group]["regularizers"] == [PENALTY]
        assert sweep.lr == 1e-3
        assert list(sweep.seeds) == ([0] if name == "pooled" else [3, 4])
    pooled, fresh, control = plan.sweeps.values()
    assert pooled.tokens == fresh.tokens == 3 * BATCH
    # as many latents times steps as the three seeds and the pool
    assert control.steps == round(3 * 96 * STEPS / 208) + 3
    assert set(pooled.started_from) == {"l2-pooled"}
    assert not fresh.started_from and not control.started_from


def test_a_pool_starts_from_its_latents_and_reconstructs(
    release: Release, tmp_path: Path
) -> None:
    plan = plan_of(release, groups=["plain"], steps=1, lr=1e-12)
    results = run_pool(plan, tmp_path / "arms", progress=list[str]().append)
    assert list(results) == ["pooled", "fresh", "plain-control"]
    pooled = results["pooled"].release
    assert pooled is not None
    sae = register_release(tmp_path / "arms" / "pooled").load("plain-pooled-seed0")
    rows = sae.W_dec.detach()
    originals = [release.load(f"plain-seed{s}").W_dec.detach() for s in range(3)]
    for one in originals:
        # each latent of each seed is in it, once
        near = one @ rows.T > 0.999
        assert near.sum(1).tolist() == [1] * 96
    assert torch.allclose(sae.b_dec, release.load("plain-seed0").b_dec, atol=1e-4)
    # all latents fire, and the pool spans what each of the seeds spans and more
    assert sae.cfg.d_sae == 208


def test_a_run_resumes_and_another_threshold_is_refused(
    release: Release, tmp_path: Path
) -> None:
    told: list[str] = []
    plan = plan_of(release, groups=["plain"], steps=2)
    run_pool(plan, tmp_path / "arms", progress=told.append)
    before = (tmp_path / "arms" / "pooled" / "release.yaml").read_bytes()
    told.clear()
    run_pool(plan, tmp_path / "arms", progress=told.append)
    assert len(told) == 3 and all("trained already" in line for line in told)
    assert (tmp_path / "arms" / "pooled" / "release.yaml").read_bytes() == before
    other = plan_of(release, groups=["plain"], steps=2, threshold=0.6)
    with pytest.raises(InputError, match="holds another sweep: started_from"):
        run_pool(other, tmp_path / "arms")


@pytest.mark.parametrize("name", KINDS)
def test_pools_of_the_same_sae_are_that_sae(tmp_path: Path, name: str) -> None:
    """Two copies of one SAE, so that every latent has a duplicate: nothing is lost or scaled."""
    copies = [saved(made(name, 0), 2.0, tmp_path / str(i)) for i in range(2)]
    latents = [torch.arange(D_SAE)] * 2
    rows = [each.W_dec.detach() for each in copies]
    union = unique_latents(rows, [torch.ones(D_SAE)] * 2, threshold=0.999)
    assert union.width == D_SAE
    sae = made(name, 1)
    load_pool_(sae, copies, latents, union, scale=2.0, steps=5)
    x = rows_of(0)
    with torch.no_grad():
        found, expected = sae(x * 2.0) / 2.0, copies[0](x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert sae.step_index == 5


@pytest.mark.parametrize("name", KINDS)
def test_the_scale_is_that_of_least_squares(tmp_path: Path, name: str) -> None:
    inference = saved(made(name, 0), 1.0, tmp_path / "saved")
    sae = made(name, 1)
    union = unique_latents(
        [inference.W_dec.detach()] * 2, [torch.ones(D_SAE)] * 2, threshold=0.999
    )
    latents = [torch.arange(D_SAE)] * 2
    load_pool_(sae, [inference] * 2, latents, union, scale=1.0, steps=0)
    x = rows_of(0)
    with torch.no_grad():
        codes, before = sae.encode(x), sae(x)
        factor = fit_scale_(sae, x)
        after = sae(x)
    torch.testing.assert_close(sae.encode(x), codes * factor, rtol=1e-3, atol=1e-5)
    error, earlier = ((x - made_x).square().sum() for made_x in (after, before))
    assert float(error) <= float(earlier) + 1e-4
    # a second fit finds nothing to change
    assert fit_scale_(sae, x) == pytest.approx(1, abs=1e-3)


def test_a_single_seed_is_refused(tmp_path: Path) -> None:
    run_sweep(tiny_sweep(sae=UNIT, seeds=[4], groups={"a": {}}), tmp_path / "one")
    with pytest.raises(InputError, match="has a single seed, 4"):
        plan_pool(tmp_path / "one")


def test_an_unknown_group_and_too_few_seeds_or_steps_are_refused(
    release: Release,
) -> None:
    with pytest.raises(InputError, match="Did you mean 'plain'"):
        plan_of(release, groups=["plian"])
    for wrong in ({"steps": 0}, {"fresh_seeds": 1}):
        with pytest.raises(InputError, match="expected 1 or more steps"):
            plan_of(release, **wrong)


def test_groups_with_levels_or_whitening_are_left_out(tmp_path: Path) -> None:
    groups: dict[str, Any] = {
        "levels": {
            "architecture": "regularized_matryoshka_batchtopk",
            "matryoshka_widths": [32, 96],
        },
        "white": {"normalize_activations": "covariance_whitening"},
    }
    run_sweep(tiny_sweep(sae={**TINY, "d_sae": 96}, groups=groups), tmp_path / "own")
    with pytest.raises(InputError, match="levels: its latents have levels.*white: its"):
        plan_pool(tmp_path / "own")


def alike(tmp_path: Path, **changes: Any) -> dict[str, SAE[Any]]:
    """Two SAEs, the second with another configuration."""
    saes = {n: saved(made("topk-unit", 0), 1.0, tmp_path / n) for n in ("a", "b")}
    for name, value in changes.items():
        if name == "hook_name":
            saes["b"].cfg.metadata.hook_name = value
        else:
            saes["b"].cfg = replace(saes["b"].cfg, **{name: value})
    return saes


@pytest.mark.parametrize(
    "changes",
    [
        {"d_sae": D_SAE + 1},
        {"d_in": D_IN + 1},
        {"hook_name": "blocks.1.hook_resid_post"},
        {"normalize_activations": "layer_norm"},
    ],
)
def test_saes_of_other_widths_hooks_or_normalisations_are_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    require_alike(alike(tmp_path))
    with pytest.raises(InputError, match=f"SAE 'b' has {next(iter(changes))}="):
        require_alike(alike(tmp_path, **changes))


def test_saes_of_other_architectures_are_refused(tmp_path: Path) -> None:
    saes = alike(tmp_path)
    saes["b"] = saved(made("standard-unit", 0), 1.0, tmp_path / "standard")
    with pytest.raises(InputError, match="SAE 'b' has architecture='standard'"):
        require_alike(saes)
