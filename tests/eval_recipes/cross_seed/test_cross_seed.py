import json
import re
from dataclasses import dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from sae_lens import SAE, TopKSAE, TopKSAEConfig
from torch import Tensor

from eval_recipes.cross_seed.metrics import (
    PAIR_METRICS,
    SharedMetrics,
    SimilarityMetrics,
)
from eval_recipes.cross_seed.output import CrossSeedEvalOutput, CrossSeedPair
from eval_recipes.results.differences import load_group_differences
from eval_recipes.results.files import load_results, read_result
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import schema_files
from eval_recipes.running.heldout import HeldOut
from eval_recipes.tables.run_table import read_differences
from saereg_plugin.errors import InputError
from tests.eval_recipes.evaluations import Named

run = Named("cross_seed").run

(SCHEMA,) = schema_files("cross_seed")


@dataclass(frozen=True)
class Planted(Subject):
    """A subject whose vectors are given as rows."""

    vectors: tuple[Tensor, Tensor] = field(default=(torch.eye(2), torch.eye(2)))

    def load(self, device: str = "cpu") -> SAE[Any]:
        dec, enc = self.vectors
        sae = TopKSAE(TopKSAEConfig(d_in=dec.shape[1], d_sae=len(dec), k=1))
        sae.W_dec.data, sae.W_enc.data = dec.clone(), enc.T.clone()
        return sae


def heldout(explained_variance: float) -> HeldOut:
    figures = {item.name: 1.0 for item in fields(HeldOut)}
    counts = {name: 7 for name in figures if name.endswith("_n")}
    counts |= {"alive": 5, "d_sae": 6, "n_tokens": 100, "context_size": 8}
    return HeldOut(
        **(figures | counts | {"explained_variance": explained_variance})  # type: ignore[arg-type]
    )


def seeds(group: str, n: int, *, common: int, d_sae: int = 12) -> list[Planted]:
    """SAEs of orthonormal latents of which the first ``common`` concepts are shared."""
    subjects: list[Planted] = []
    for seed in range(n):
        # the vectors that only this seed has
        own = torch.arange(d_sae - common) + common + seed * d_sae
        concepts = torch.cat([torch.arange(common), own])
        generator = torch.Generator().manual_seed(seed)
        dec = torch.eye(max(48, n * d_sae))[concepts][
            torch.randperm(d_sae, generator=generator)
        ]
        subjects.append(
            Planted("lab/run", f"{group}/seed_{seed}", group, seed, (dec, dec * 2))
        )
    return subjects


def make_context(subjects: list[Planted], out: Path, **options: Any) -> RunContext:
    # these vectors belong to no language model: what text says is tested elsewhere
    given = {"reconstruction_shares": False, **options}
    context = RunContext(list(subjects), out, options={"cross_seed": given})
    table = {
        s.sae_id: heldout(0.5 + 0.1 * (s.group == "wide") + 0.01 * (s.seed or 0))
        for s in subjects
    }
    context.measured["heldout"] = table
    return context


def results(out: Path) -> dict[str, dict[str, Any]]:
    records = [read_result(path) for path in (out / "cross_seed").glob("*.json")]
    return {record["sae_lens_id"]: record for record in records}


def test_planted_groups(tmp_path: Path) -> None:
    subjects = seeds("narrow", 3, common=3) + seeds("wide", 3, common=9)
    assert run(make_context(subjects, tmp_path)) == []
    found = results(tmp_path)
    assert set(found) == {s.sae_id for s in subjects}

    record = found["narrow/seed_1"]
    metrics = record["eval_result_metrics"]
    assert metrics["shared"]["shared"] == 0.25
    assert metrics["shared"]["shared_n"] == 12
    low, high = (metrics["shared"][f"shared_ci_{end}"] for end in ("low", "high"))
    assert low < 0.25 < high
    assert metrics["stability"]["always_shared"] == 0.25
    assert metrics["stability"]["sometimes_shared_alive"] == 0
    assert metrics["stability"]["never_shared"] == 0.75
    assert metrics["similarity"]["fraction_paired"] == 0.25
    assert metrics["similarity"]["mean_max_cos"] == 0.25
    assert metrics["similarity"]["pw_mcc_absolute"] == 0.25
    assert metrics["geometry"]["c_dec"] == 0
    assert metrics["geometry"]["alive_by_weights"] == 12
    assert metrics["heldout"]["explained_variance"] == 0.51
    assert metrics["baseline"]["shared"] < 0.25
    assert metrics["baseline"]["c_dec"] == pytest.approx(
        metrics["baseline"]["expected_abs_cos"], rel=0.4
    )
    assert metrics["group"]["shared"] == 0.25
    assert metrics["group"]["shared_n"] == 3
    # three equal values: their spread cannot be estimated
    assert metrics["group"]["shared_ci_low"] is None
    assert metrics["group"]["always_shared_ci_low"] is None
    assert metrics["group"]["explained_variance_n"] == 3

    assert [pair["seeds"] for pair in record["eval_result_details"]] == [[1, 0], [1, 2]]
    extra = record["eval_result_unstructured"]
    assert extra["saereg"] == {"group": "narrow", "seed": 1}
    assert sum(extra["stability_by_latent"]) == 3
    assert sum(extra["encoder_decoder_cosine_histogram"]["counts"]) == 12
    differences = {row["metric"]: row for row in extra["group_differences"]}
    assert differences["shared"]["other_group"] == "wide"
    assert differences["shared"]["difference"] == -0.5
    # three seeds: every pair's difference is listed, the interval is over latents
    assert differences["shared"]["values"] == [
        {"seeds": pair, "difference": -0.5} for pair in ([0, 1], [0, 2], [1, 2])
    ]
    assert differences["shared"]["interval_over"] == "latents"
    # latents of one SAE of either group: those of the others are the same concepts
    assert differences["shared"]["n"] == 2 * 12
    assert "fewer than 5 seeds" in differences["shared"]["reason"]
    low, high = (differences["shared"][f"ci_{end}"] for end in ("low", "high"))
    assert -0.9 < low < -0.5 < high < -0.1
    # latents say nothing about other seeds
    assert not differences["shared"]["distinguishable"]
    assert differences["explained_variance"]["difference"] == pytest.approx(-0.1)
    assert differences["explained_variance"]["n"] == 3
    assert not differences["c_dec"]["distinguishable"]
    assert [value["seeds"] for value in differences["c_dec"]["values"]] == [
        [0],
        [1],
        [2],
    ]


@pytest.mark.parametrize("n", [2, 3])
def test_few_seeds_end_in_values_and_no_verdict(tmp_path: Path, n: int) -> None:
    """From planted SAEs to the sentence: 90 of 120 latents shared against 40."""
    subjects = seeds("l2", n, common=90, d_sae=120) + seeds(
        "none", n, common=40, d_sae=120
    )
    assert run(make_context(subjects, tmp_path)) == []
    loaded = load_group_differences(tmp_path)
    (shared,) = [item for item in loaded if item.metric == "shared"]
    shared = shared if shared.group == "l2" else shared.reversed()
    assert shared.difference == pytest.approx(50 / 120)
    assert shared.ci_low is not None and shared.ci_low > 0.2
    assert (shared.interval_over, shared.n) == ("latents", 2 * 120)
    assert not shared.distinguishable
    assert [pair for pair, _ in shared.values] == [*combinations(range(n), 2)]
    sentence = read_differences(loaded, group="l2", other="none")[0]
    pairs = ", ".join([".417"] * len(shared.values))
    assert f"l2 minus none is .417; pair by pair {pairs} (95 %" in sentence
    assert "over 240 latents" in sentence
    assert "too few seeds for a verdict" in sentence
    assert "higher" not in sentence


def test_five_seeds_end_in_a_verdict(tmp_path: Path) -> None:
    """Seed 4 of either group shares less, so that the pairs differ."""
    subjects: list[Planted] = []
    for group, common in (("l2", 90), ("none", 30)):
        most = seeds(group, 5, common=common, d_sae=120)
        subjects += [*most[:4], seeds(group, 5, common=common // 2, d_sae=120)[4]]
    assert run(make_context(subjects, tmp_path)) == []
    loaded = load_group_differences(tmp_path)
    (shared,) = [item for item in loaded if item.metric == "shared"]
    assert (shared.interval_over, shared.n) == ("seed pairs", 10)
    assert shared.distinguishable
    sentence = read_differences(loaded, group="l2", other="none")[0]
    assert "is higher with l2 than with none" in sentence
    assert "over 10 seed pairs" in sentence


def test_nothing_shared_is_no_certainty(tmp_path: Path) -> None:
    """No latent of 60 shared: up to 3.69 / 60 of others may be."""
    assert run(make_context(seeds("g", 2, common=0, d_sae=60), tmp_path)) == []
    record = results(tmp_path)["g/seed_0"]
    metrics = record["eval_result_metrics"]
    for name in ("shared", "shared_alive"):
        assert metrics["shared"][f"{name}_ci_low"] == 0
        assert metrics["shared"][f"{name}_ci_high"] == pytest.approx(3.688879 / 60)
    assert metrics["stability"]["never_shared_ci_low"] == pytest.approx(
        1 - 3.688879 / 60
    )
    assert metrics["stability"]["never_shared_ci_high"] == 1
    extra = record["eval_result_unstructured"]
    assert extra["group_over_latents"]["shared_ci_high"] == pytest.approx(3.688879 / 60)
    # norms are bounded by nothing: equal ones have no interval, and a reason
    assert metrics["geometry"]["decoder_norm_ci_low"] is None
    assert "all values are equal" in extra["without_interval"]["geometry/decoder_norm"]
    assert "fewer than 5 seeds" in extra["without_interval"]["group/shared"]


def test_table_reads_back(tmp_path: Path) -> None:
    run(make_context(seeds("narrow", 2, common=3), tmp_path))
    table = load_results(tmp_path)
    row = table[(table.metric == "shared/shared") & (table.seed == 0)].iloc[0]
    assert (row.value, row.n) == (0.25, 12)
    group = table[table.metric == "group/shared"].iloc[0]
    assert (group.value, group.n) == (0.25, 1)
    assert group[["low", "high"]].isna().all()


def test_file_validates_and_is_strict_json(tmp_path: Path) -> None:
    run(make_context(seeds("narrow", 2, common=3), tmp_path))
    path = next((tmp_path / "cross_seed").glob("*.json"))
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    output = TypeAdapter(CrossSeedEvalOutput).validate_python(record)
    assert json.loads(output.to_json()) == record


def test_dead_latents_are_left_out(tmp_path: Path) -> None:
    """8 of 12 alive in seed 0, all in seed 1; 6 alive latents are shared."""
    eye = torch.eye(48)
    a = Planted("r", "a", "g", 0, (eye[:12], torch.cat([eye[:8], eye[36:40]])))
    b_rows = torch.cat([eye[:6], eye[20:26]])
    b = Planted("r", "b", "g", 1, (b_rows, b_rows))
    assert run(make_context([a, b], tmp_path)) == []
    for record in results(tmp_path).values():
        shared = record["eval_result_metrics"]["shared"]
        assert shared["shared"] == 0.5
        assert shared["shared_alive"] == 0.75
    first = results(tmp_path)["a"]["eval_result_metrics"]
    assert first["shared"]["shared_alive_n"] == 8
    assert first["geometry"]["dead_by_weights"] == 4


def test_nothing_alive_gives_null(tmp_path: Path) -> None:
    eye = torch.eye(48)
    subjects = [
        Planted("r", f"s{seed}", "g", seed, (eye[:4], eye[4:8])) for seed in range(3)
    ]
    assert run(make_context(subjects, tmp_path)) == []
    metrics = results(tmp_path)["s0"]["eval_result_metrics"]
    assert metrics["shared"]["shared_alive"] is None
    assert metrics["shared"]["shared_alive_n"] == 0
    assert metrics["geometry"]["c_dec_alive"] is None
    assert metrics["group"]["shared_alive"] is None


def test_single_seed_is_refused(tmp_path: Path) -> None:
    subjects = seeds("pair", 2, common=3) + seeds("alone", 1, common=3)
    with pytest.raises(InputError) as caught:
        run(make_context(subjects, tmp_path))
    message = str(caught.value)
    for part in ("'alone'", "'alone/seed_0'", "two or more", "Train another seed"):
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_other_unusable_input(tmp_path: Path) -> None:
    twice = [*seeds("g", 2, common=3), *seeds("g", 1, common=3)]
    with pytest.raises(InputError, match="both have seed 0"):
        Named("cross_seed").check(make_context(twice, tmp_path))
    unnamed = [Planted("r", "x", "g", None)]
    with pytest.raises(InputError, match="'x' of group 'g' has no seed"):
        Named("cross_seed").check(make_context(unnamed, tmp_path))
    good = seeds("g", 2, common=3)
    with pytest.raises(InputError, match="Did you mean 'n_resamples'"):
        Named("cross_seed").check(make_context(good, tmp_path, n_resample=3))
    with pytest.raises(InputError, match="n_resamples is 0; expected at least 1"):
        Named("cross_seed").check(make_context(good, tmp_path, n_resamples=0))


def test_widths_must_agree_inside_a_group(tmp_path: Path) -> None:
    mixed = [seeds("g", 2, common=3)[0], seeds("g", 2, common=3, d_sae=10)[1]]
    cause = re.compile(r"group 'g' have .* \(12, 48\) and \(10, 48\)")
    for subjects in (mixed, mixed + seeds("h", 2, common=3)):
        failures = {f.sae_id: f.cause for f in run(make_context(subjects, tmp_path))}
        assert set(failures) == {"g/seed_0", "g/seed_1"}
        assert all(cause.search(found) for found in failures.values())
    assert set(results(tmp_path)) == {"h/seed_0", "h/seed_1"}


def test_one_broken_sae_does_not_stop_the_others(tmp_path: Path) -> None:
    subjects = seeds("g", 3, common=3)
    subjects[2].vectors[0][0, 0] = float("nan")
    failures = run(make_context(subjects, tmp_path))
    assert [(f.eval, f.sae_id) for f in failures] == [("cross_seed", "g/seed_2")]
    assert "W_dec holds NaN" in failures[0].cause
    assert set(results(tmp_path)) == {"g/seed_0", "g/seed_1"}


def test_the_last_one_of_a_group_fails_too(tmp_path: Path) -> None:
    subjects = seeds("g", 2, common=3) + seeds("h", 2, common=3)
    context = make_context(subjects, tmp_path)
    del context.measured["heldout"]["g/seed_1"]
    failures = {f.sae_id: f.cause for f in run(context)}
    assert set(failures) == {"g/seed_0", "g/seed_1"}
    assert "no other seed of group 'g'" in failures["g/seed_0"]
    assert set(results(tmp_path)) == {"h/seed_0", "h/seed_1"}


def test_threads_and_order_do_not_matter(tmp_path: Path) -> None:
    subjects = seeds("narrow", 3, common=3)
    run(make_context(subjects, tmp_path / "a"))
    run(make_context(subjects[::-1], tmp_path / "b", matching_threads=2))
    first, second = results(tmp_path / "a"), results(tmp_path / "b")
    for sae_id, record in first.items():
        for key in ("eval_result_metrics", "eval_result_details"):
            assert record[key] == second[sae_id][key]


def test_every_metric_of_pairs_is_a_row_of_the_details() -> None:
    """A metric without its row would be dropped in silence."""
    assert _rows(CrossSeedPair) == set(PAIR_METRICS)
    assert set(PAIR_METRICS) <= _rows(SimilarityMetrics) | _rows(SharedMetrics)


def _rows(cls: Any) -> set[str]:
    names = {item.name for item in fields(cls)}
    return {name for name in names if f"{name}_ci_low" in names}
