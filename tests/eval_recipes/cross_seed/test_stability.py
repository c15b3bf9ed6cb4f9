"""The table of stable latents, what the JSON says of pairs, and what must not matter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
import torch

from eval_recipes.cross_seed.output import stable_latents
from eval_recipes.cross_seed.stability import STABILITY, read_stability
from eval_recipes.results.reading import read_result
from eval_recipes.statistics.seeds import FEW_SEEDS, over_pairs
from saereg_plugin.errors import InputError
from tests.eval_recipes.cross_seed.test_cross_seed import (
    SCHEMA,
    Planted,
    make_context,
    results,
    seeds,
)
from tests.eval_recipes.evaluations import Named

run = Named("cross_seed").run

# Concepts of 12 latents each: 0 to 3 in all three seeds, 4 and 5 in seeds 0 and 1 only.
CONCEPTS = [
    [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15],
    [0, 1, 2, 3, 4, 5, 16, 17, 18, 19, 20, 21],
    [0, 1, 2, 3, 22, 23, 24, 25, 26, 27, 28, 29],
]


def planted() -> tuple[list[Planted], list[list[int]]]:
    """Three SAEs, and the concept of each of their latents."""
    subjects: list[Planted] = []
    concepts: list[list[int]] = []
    for seed, given in enumerate(CONCEPTS):
        generator = torch.Generator().manual_seed(seed)
        order = torch.tensor(given)[torch.randperm(12, generator=generator)]
        rows = torch.eye(48)[order]
        subjects.append(Planted("lab", f"s{seed}", "g", seed, (rows, rows * 2)))
        concepts.append(order.tolist())
    return subjects, concepts


def path_of(out: Path, seed: int) -> Path:
    return out / "cross_seed" / f"lab_s{seed}_eval_results.json"


def test_planted_stability_is_recovered(tmp_path: Path) -> None:
    subjects, concepts = planted()
    assert run(make_context(subjects, tmp_path)) == []
    table = read_stability(STABILITY.path(path_of(tmp_path, 0)))
    assert table["latent"].tolist() == list(range(12))
    assert table["alive"].to_numpy().all()
    for latent, concept in enumerate(concepts[0]):
        row = table.loc[latent]
        expected = 1.0 if concept < 4 else 0.5 if concept < 6 else 0.0
        assert (row["stability"], row["stability_alive"]) == (expected, expected)
        for other in (1, 2):
            shared = concept in concepts[other]
            assert row[f"shared_{other}"] == row[f"shared_alive_{other}"] == shared
            assert row[f"decoder_similarity_{other}"] == float(shared)
            assert row[f"encoder_similarity_{other}"] == float(shared)
            if shared:
                partner = row[f"decoder_partner_{other}"]
                assert concepts[other][int(partner)] == concept
                assert row[f"encoder_partner_{other}"] == partner
    always = [i for i, concept in enumerate(concepts[0]) if concept < 4]
    often = [i for i, concept in enumerate(concepts[0]) if concept < 6]
    assert stable_latents(path_of(tmp_path, 0), minimum=1.0) == always
    assert stable_latents(STABILITY.path(path_of(tmp_path, 0))) == often
    record = read_result(path_of(tmp_path, 0))
    metrics = record["eval_result_metrics"]
    assert metrics["reconstruction"]["stable_latents"] == 0.5
    assert metrics["reconstruction"]["explained_variance_stable"] is None
    named = record["eval_result_unstructured"]["stability_table"]
    assert (named["file"], named["rows"]) == ("lab_s0_stability.parquet", 12)


def test_dead_latents_are_marked(tmp_path: Path) -> None:
    eye = torch.eye(48)
    a = Planted("lab", "s0", "g", 0, (eye[:12], torch.cat([eye[:8], eye[36:40]])))
    b = Planted("lab", "s1", "g", 1, (eye[:12], eye[:12]))
    assert run(make_context([a, b], tmp_path)) == []
    table = read_stability(path_of(tmp_path, 0))
    assert table["alive"].tolist() == [True] * 8 + [False] * 4
    assert not any(table["shared_alive_1"].tolist()[8:])
    assert stable_latents(path_of(tmp_path, 0)) == list(range(8))
    # B has four latents that are without a partner once A's dead ones are left out
    other = read_stability(path_of(tmp_path, 1))
    assert other["stability_alive"].tolist() == [1.0] * 8 + [0.0] * 4


def test_unusable_tables_are_named(tmp_path: Path) -> None:
    run(make_context(planted()[0], tmp_path))
    result, table = path_of(tmp_path, 0), STABILITY.path(path_of(tmp_path, 0))
    with pytest.raises(InputError, match="minimum = 0"):
        stable_latents(table, minimum=0)
    pd.DataFrame({"latent": [0]}).to_parquet(table)
    with pytest.raises(InputError, match="lacks the columns alive, stability"):
        stable_latents(table)
    with pytest.raises(InputError, match="SHA-256 differs"):
        stable_latents(result)
    table.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read"):
        stable_latents(table)
    table.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        stable_latents(result)


def test_a_failed_rerun_leaves_the_old_result_and_its_table(tmp_path: Path) -> None:
    subjects, _ = planted()
    run(make_context(subjects, tmp_path))
    old = [path_of(tmp_path, 2), STABILITY.path(path_of(tmp_path, 2))]
    before = [path.read_bytes() for path in old]
    subjects[2].vectors[0][0, 0] = float("nan")
    assert len(run(make_context(subjects, tmp_path))) == 1
    assert [path.read_bytes() for path in old] == before
    assert set(results(tmp_path)) == {"s0", "s1", "s2"}
    record = read_result(path_of(tmp_path, 0))
    assert record["eval_result_unstructured"]["seeds"] == [0, 1]


class Interrupted(Planted):
    def load(self, device: str = "cpu") -> Any:
        raise KeyboardInterrupt


def test_an_interrupted_rerun_leaves_everything_as_it_was(tmp_path: Path) -> None:
    subjects, _ = planted()
    run(make_context(subjects, tmp_path))
    before = {p.name: p.read_bytes() for p in (tmp_path / "cross_seed").iterdir()}
    assert len(before) == 6
    last = subjects[2]
    stopped = Interrupted(
        last.release, last.sae_id, last.group, last.seed, last.vectors
    )
    with pytest.raises(KeyboardInterrupt):
        run(make_context([*subjects[:2], stopped], tmp_path))
    after = {p.name: p.read_bytes() for p in (tmp_path / "cross_seed").iterdir()}
    assert after == before
    assert stable_latents(path_of(tmp_path, 2), minimum=1.0)


def test_two_of_three_seeds_are_two_thirds(tmp_path: Path) -> None:
    """float32's 2/3 lies below the double: the table's reader must not lose the latent."""
    eye = torch.eye(48)
    rows = [eye[:12], eye[:12], eye[:12], torch.cat([eye[:6], eye[30:36]])]
    subjects = [Planted("lab", f"s{i}", "g", i, (r, r)) for i, r in enumerate(rows)]
    assert run(make_context(subjects, tmp_path)) == []
    assert stable_latents(path_of(tmp_path, 0), minimum=2 / 3) == list(range(12))
    assert stable_latents(path_of(tmp_path, 0), minimum=0.7) == list(range(6))


def test_gaps_pairs_and_overlaps_stand_in_the_file(tmp_path: Path) -> None:
    run(make_context(planted()[0], tmp_path))
    record = read_result(path_of(tmp_path, 1))
    jsonschema.validate(record, json.loads(SCHEMA.read_text()))
    first, second = record["eval_result_details"]
    for pair in (first, second):
        gaps = pair["matching_gaps"]
        assert len(gaps) == 10
        # matching_relative_gap is 0: every matching is proven to be the best
        assert all(gap == 0 for gap in gaps.values())
        low, high = pair["shared_ci_low"], pair["shared_ci_high"]
        assert low < pair["shared"] < high
    assert (first["shared"], second["shared"]) == (0.5, pytest.approx(1 / 3))
    # unstable: 6 latents of seed 1, 8 of seed 2, in orthogonal directions
    overlap = second["unstable_overlap"]
    assert overlap["ranks"] == [1, 2, 4, 8, 16, 24]
    assert overlap["random"][3] == pytest.approx(8 / 48)
    assert overlap["overlap"][:3] == pytest.approx([0, 0, 0], abs=1e-12)
    assert overlap["overlap"][3:] == [None] * 3
    extra = record["eval_result_unstructured"]
    assert [pair["seeds"] for pair in extra["group_pairs"]] == [[0, 1], [0, 2], [1, 2]]
    assert [pair["shared"] for pair in extra["group_pairs"]] == pytest.approx(
        [1 / 2, 1 / 3, 1 / 3]
    )
    group = record["eval_result_metrics"]["group"]
    assert group["shared"] == pytest.approx(7 / 18)
    assert group["shared_ci_low"] is None
    low = extra["group_over_latents"]["shared_ci_low"]
    assert low < group["shared"] == extra["group_over_latents"]["shared"]
    matched = extra["matched_similarity_histogram"]["decoder"]["counts"]
    # 6 shared with seed 0 and 4 with seed 2, of twice 12
    assert (matched[-1], sum(matched)) == (10, 24)
    assert set(extra["baseline_histograms"]) == {
        "encoder_decoder_cosine_histogram",
        "matched_similarity_histogram",
    }


def test_intervals_over_pairs_need_five_seeds(tmp_path: Path) -> None:
    values = {(s, t): 0.1 * s + 0.01 * t for s in range(5) for t in range(s + 1, 5)}
    assert over_pairs(values).low is not None
    few = {pair: value for pair, value in values.items() if pair[1] < 4}
    assert over_pairs(few)[1:] == (None, None, 6, FEW_SEEDS)

    # seed 4 shares half of what the others share
    mixed = seeds("g", 5, common=3)
    wider = seeds("g", 5, common=6)
    mixed[:4] = wider[:4]
    run(make_context(mixed, tmp_path))
    group = results(tmp_path)["g/seed_0"]["eval_result_metrics"]["group"]
    assert group["shared"] == pytest.approx((6 * 0.5 + 4 * 0.25) / 10)
    assert group["shared_ci_low"] < group["shared"] < group["shared_ci_high"]
    assert group["shared_n"] == 10


def noisy() -> list[Planted]:
    """Three SAEs of 20 latents in 24 dimensions, half of them common, encoders apart."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(10, 24, generator=generator)
    subjects: list[Planted] = []
    for seed in range(3):
        own = torch.randn(10, 24, generator=generator)
        dec = torch.cat([common, own])
        noise = 0.3 * torch.randn(20, 24, generator=generator)
        subjects.append(Planted("lab", f"s{seed}", "g", seed, (dec, dec + noise)))
    return subjects


def changed(signs: torch.Tensor, tmp_path: Path) -> tuple[Path, Path, list[int]]:
    """Evaluate as it is, and with seed 1's latents times ``signs`` in another order."""
    subjects = noisy()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    dec, enc = (rows[order] * signs for rows in subjects[1].vectors)
    others = [subjects[0], replace(subjects[1], vectors=(dec, enc)), subjects[2]]
    assert run(make_context(subjects, tmp_path / "a")) == []
    assert run(make_context(others, tmp_path / "b")) == []
    return tmp_path / "a", tmp_path / "b", order.tolist()


def assert_same_figures(
    first: Path, second: Path, *, but: tuple[str, ...] = ()
) -> None:
    """Every figure but those whose names begin so, and but intervals: they see the order."""
    before, after = results(first), results(second)
    assert set(before) == set(after) == {"s0", "s1", "s2"}
    for sae_id, record in before.items():
        metrics: dict[str, Any] = record["eval_result_metrics"]
        assert set(metrics) >= {"similarity", "shared", "stability", "geometry"}
        found = after[sae_id]["eval_result_metrics"]
        for category, figures in metrics.items():
            for metric, value in figures.items():
                # random partners are drawn by their places
                random = metric.startswith("span_random")
                if "_ci_" in metric or metric.startswith(but) or random:
                    continue
                assert found[category][metric] == pytest.approx(value, abs=1e-5), metric


def assert_same_tables(first: Path, second: Path, order: list[int]) -> None:
    """The tables of seed 1 in that order, and the partners that the others have in it."""
    before, after = (read_stability(path_of(out, 1)) for out in (first, second))
    assert 0 < before["stability"].mean() < 1
    before = before.iloc[order].reset_index(drop=True)
    # random partners are drawn by their places
    drawn = [name for name in before.columns if name.startswith("span_random")]
    names = [name for name in before.columns if name not in ("latent", *drawn)]
    pd.testing.assert_frame_equal(before[names], after[names], atol=1e-5)
    for seed in (0, 2):
        before, after = (read_stability(path_of(out, seed)) for out in (first, second))
        for side in ("decoder", "encoder"):
            column = f"{side}_partner_1"
            after[column] = after[column].map(lambda latent: order[int(latent)])
        pd.testing.assert_frame_equal(
            before.drop(columns=drawn),
            after.drop(columns=drawn),
            check_dtype=False,
            atol=1e-5,
        )


def test_order_of_latents_does_not_matter(tmp_path: Path) -> None:
    first, second, order = changed(torch.ones(20, 1), tmp_path)
    metrics = results(first)["s0"]["eval_result_metrics"]
    assert 0.3 < metrics["similarity"]["pw_mcc_signed"] < 0.9
    assert 0 < metrics["geometry"]["mean_cos_sim"] < 1
    assert_same_figures(first, second)
    assert_same_tables(first, second, order)


def test_sign_of_latents_does_not_matter(tmp_path: Path) -> None:
    """Latents turned over with their encoders; only signed cosines see it."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (20, 1), generator=generator) * 2.0 - 1.0
    assert 5 < (signs < 0).sum() < 15
    first, second, order = changed(signs, tmp_path)
    assert_same_figures(first, second, but=("pw_mcc_signed", "mean_cos_sim"))
    assert_same_tables(first, second, order)
    signed = [
        results(out)["s0"]["eval_result_metrics"]["similarity"]["pw_mcc_signed"]
        for out in (first, second)
    ]
    assert signed[1] < signed[0] - 0.01
