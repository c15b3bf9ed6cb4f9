"""What random dictionaries reach stands beside every figure that they would reach, too."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor

import eval_recipes.cross_seed.baseline as baseline_module
import eval_recipes.cross_seed.measure as measure
from eval_recipes.cross_seed.baseline import random_weights
from eval_recipes.cross_seed.weights import Weights
from tests.eval_recipes.cross_seed.test_cross_seed import (
    SCHEMA,
    Planted,
    make_context,
    results,
    seeds,
)
from tests.eval_recipes.evaluations import Named
from tests.oracles import cross_seed_oracle as oracle

run = Named("cross_seed").run


def group(
    name: str, n_seeds: int, shape: tuple[int, int], *, alive: int | None = None
) -> list[Planted]:
    """SAEs with random decoder rows; the first ``alive`` encoder columns are as these."""
    d_sae, d_in = shape
    subjects: list[Planted] = []
    for seed in range(n_seeds):
        generator = torch.Generator().manual_seed(100 + seed)
        dec = torch.randn(d_sae, d_in, generator=generator)
        signs = torch.ones(d_sae, 1)
        if alive is not None and seed == 0:
            signs[alive:] = -1.0
        subjects.append(Planted("lab", f"{name}{seed}", name, seed, (dec, dec * signs)))
    return subjects


def drawn(shape: tuple[int, int], n: int, *, seed: int = 0) -> list[Weights]:
    """The random SAEs of a run over one shape, in the order they are drawn in."""
    generator = torch.Generator().manual_seed(seed)
    return [random_weights(shape, generator, alive_threshold=0.1) for _ in range(n)]


def rows(tensor: Tensor) -> list[oracle.Vector]:
    return tensor.tolist()


def baseline(out: Path, sae_id: str) -> dict[str, Any]:
    return results(out)[sae_id]["eval_result_metrics"]["baseline"]


def alive_by_chance(d: int, threshold: float = 0.1) -> float:
    """P(cos > threshold) of two random directions: cosines have density (1 - t^2)^((d - 3) / 2)."""
    steps = 100_000
    ends = [-1 + 2 * (i + 0.5) / steps for i in range(steps)]
    density = [(1 - t * t) ** ((d - 3) / 2) for t in ends]
    above = [p for t, p in zip(ends, density, strict=True) if t > threshold]
    return math.fsum(above) / math.fsum(density)


def test_every_figure_of_vectors_has_its_baseline(tmp_path: Path) -> None:
    assert run(make_context(seeds("g", 3, common=3), tmp_path)) == []
    record = results(tmp_path)["g/seed_1"]
    jsonschema.validate(record, json.loads(SCHEMA.read_text()))
    metrics = record["eval_result_metrics"]
    beside = set(metrics["baseline"])
    for category in ("similarity", "shared", "stability", "geometry"):
        names = {name for name in metrics[category] if "decoder_norm" not in name}
        assert names <= beside, category
    assert {"stable_latents", "stable_latents_ci_high"} <= beside
    assert "decoder_norm" not in beside
    # orthonormal vectors, 9 of 12 latents this seed's own: chance reaches neither
    chance = metrics["baseline"]
    assert metrics["stability"]["always_shared"] == 0.25 > chance["always_shared"] == 0
    assert chance["never_shared"] == 1 > metrics["stability"]["never_shared"]
    assert chance["never_shared_ci_low"] == pytest.approx(1 - 3.688879 / 12)
    assert metrics["reconstruction"]["stable_latents"] > chance["stable_latents"] == 0
    # what has no interval says why
    reasons = record["eval_result_unstructured"]["without_interval"]
    assert reasons["baseline/alive_by_weights"] == "not a mean over latents"


@pytest.mark.parametrize("d_in", [48, 128])
def test_many_are_alive_by_chance_where_d_in_is_small(
    tmp_path: Path, d_in: int
) -> None:
    n = 300
    assert run(make_context(group("g", 2, (n, d_in)), tmp_path)) == []
    found = baseline(tmp_path, "g0")
    share = alive_by_chance(d_in)
    assert share == pytest.approx({48: 0.247, 128: 0.130}[d_in], abs=1e-3)
    spread = math.sqrt(n * share * (1 - share))
    assert abs(found["alive_by_weights"] - n * share) < 4 * spread
    assert found["alive_by_weights"] + found["dead_by_weights"] == n
    assert found["alive_by_weights_n"] == n
    # a cosine of random directions has mean 0 and variance 1 / d_in
    assert abs(found["encoder_decoder_cos"]) < 4 / math.sqrt(n * d_in)
    low, high = (found[f"encoder_decoder_cos_ci_{end}"] for end in ("low", "high"))
    assert low < found["encoder_decoder_cos"] < high
    first = drawn((n, d_in), 1)[0]
    cosines = [
        oracle.cosine(e, d)
        for e, d in zip(rows(first.enc), rows(first.dec), strict=True)
    ]
    assert found["encoder_decoder_cos"] == pytest.approx(sum(cosines) / n, abs=1e-6)
    assert found["alive_by_weights"] == sum(cosine > 0.1 for cosine in cosines)


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
@pytest.mark.parametrize("d_in", [2, 3, 48])
def test_stability_by_chance_is_against_as_many_others(
    tmp_path: Path, d_in: int, n_seeds: int
) -> None:
    """In two dimensions much is shared by chance, in 48 nothing."""
    shape = (8, d_in)
    assert run(make_context(group("g", n_seeds, shape), tmp_path, n_resamples=9)) == []
    found = baseline(tmp_path, "g0")
    first, *others = [(rows(sae.dec), rows(sae.enc)) for sae in drawn(shape, n_seeds)]
    for suffix in ("", "_alive"):
        kept = [
            oracle.alive_ids(enc, dec) if suffix else list(range(8))
            for dec, enc in (first, *others)
        ]
        if not kept[0]:
            assert found["never_shared_alive"] is None
            continue
        shared = [
            {a for a, _ in oracle.shared_pairs(*first, *other, kept[0], ids)}
            for other, ids in zip(others, kept[1:], strict=True)
        ]
        classes = oracle.classes(shared, 8)
        for name, latents in zip(
            ("always", "sometimes", "never"), classes, strict=True
        ):
            share = len(latents & {*kept[0]}) / len(kept[0])
            assert found[f"{name}_shared{suffix}"] == pytest.approx(share), name
            assert found[f"{name}_shared{suffix}_n"] == len(kept[0])
        if not suffix:
            times = [sum(latent in ids for ids in shared) for latent in range(8)]
            stable = sum(t >= 0.5 * len(others) for t in times) / 8
            assert found["stable_latents"] == pytest.approx(stable)
            assert max(times) > 0 or d_in > 2
            assert max(times) == 0 or d_in < 48


def test_groups_of_other_sizes_have_their_own(tmp_path: Path) -> None:
    """One shape, two and five seeds: what is of one pair is the same, stability is not."""
    few, many = group("few", 2, (40, 2)), group("many", 5, (40, 2))
    assert run(make_context(few + many, tmp_path / "both")) == []
    assert run(make_context(few, tmp_path / "alone")) == []
    two, five = (baseline(tmp_path / "both", name) for name in ("few0", "many0"))
    # more random SAEs are drawn after the pair, which stays what it was
    assert two == baseline(tmp_path / "alone", "few0")
    assert two["shared"] == five["shared"] == two["always_shared"] > 0
    assert two["sometimes_shared"] == 0 < five["sometimes_shared"]
    assert five["always_shared"] < two["always_shared"]
    assert five["never_shared"] < two["never_shared"]
    for found in (two, five):
        classes = [found[f"{name}_shared"] for name in ("always", "sometimes", "never")]
        assert sum(classes) == pytest.approx(1)


def test_what_cannot_be_shared_is_not_matched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three more random SAEs of 48 dimensions cost products, those of 2 a matching each."""
    calls: list[int] = []
    measured = measure.measure_pair

    def counted(*given: Any) -> Any:
        calls.append(given[0].dec.shape[1])
        return measured(*given)

    for module in (measure, baseline_module):
        monkeypatch.setattr(module, "measure_pair", counted)
    for d_in in (2, 48):
        context = make_context(group("g", 5, (12, d_in)), tmp_path / str(d_in))
        assert run(context) == []
    # the ten pairs of five seeds, and the random pair
    assert calls.count(48) == 11
    assert calls.count(2) == 11 + 3


def test_geometry_of_alive_rows_is_of_as_many_random_rows(tmp_path: Path) -> None:
    shape = (30, 16)
    assert run(make_context(group("g", 2, shape, alive=7), tmp_path)) == []
    geometry = results(tmp_path)["g0"]["eval_result_metrics"]["geometry"]
    assert geometry["alive_by_weights"] == geometry["c_dec_alive_n"] == 7
    found = baseline(tmp_path, "g0")
    chosen = rows(drawn(shape, 1)[0].dec[:7])
    cosines = sorted(abs(cosine) for cosine in oracle.off_diagonal(chosen))
    assert found["c_dec_alive"] == pytest.approx(sum(cosines) / 42, abs=1e-6)
    assert found["c_dec_alive_n"] == found["p99_abs_cos_alive_n"] == 7
    assert found["max_abs_cos_alive"] == pytest.approx(cosines[-1], abs=1e-6)
    assert found["mean_cos_sim_alive"] == pytest.approx(
        oracle.mean_max_signed(chosen), abs=1e-6
    )
    for name, q in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        reached = cosines[math.ceil(q * 42) - 1]
        assert found[f"{name}_abs_cos_alive"] == pytest.approx(reached, abs=1e-4)
    # fewer rows have a nearer neighbour less often: the whole width's would be no baseline
    assert found["mean_cos_sim_alive"] < found["mean_cos_sim"]
    # where all are alive it is that of all rows
    every = baseline(tmp_path, "g1")
    for name in ("c_dec", "mean_cos_sim", "max_abs_cos", "p90_abs_cos"):
        for end in ("", "_ci_low", "_n"):
            assert every[f"{name}_alive{end}"] == every[f"{name}{end}"]
            assert found[f"{name}{end}"] == every[f"{name}{end}"]


@pytest.mark.parametrize("alive", [0, 1])
def test_one_row_has_no_geometry(tmp_path: Path, alive: int) -> None:
    assert run(make_context(group("g", 2, (12, 16), alive=alive), tmp_path)) == []
    found = baseline(tmp_path, "g0")
    for name in ("c_dec", "mean_cos_sim", "max_abs_cos", "median_abs_cos"):
        assert found[f"{name}_alive"] is None
        assert found[f"{name}_alive_n"] == 0
        assert found[name] is not None


def test_no_random_latent_alive_gives_null(tmp_path: Path) -> None:
    context = make_context(group("g", 3, (12, 48)), tmp_path, alive_threshold=0.9)
    assert run(context) == []
    found = baseline(tmp_path, "g0")
    assert (found["alive_by_weights"], found["dead_by_weights"]) == (0, 12)
    for name in ("always", "sometimes", "never"):
        assert found[f"{name}_shared_alive"] is None
        assert found[f"{name}_shared_alive_n"] == 0
        assert found[f"{name}_shared"] is not None
    # the trained SAE's latents are alive, so as many random rows are compared
    assert found["c_dec_alive_n"] == 12
