"""Latents on the report page: which are shown, and what is said of them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from eval_recipes.cross_seed.stability import STABILITY
from eval_recipes.report.embedding import compact, packed
from eval_recipes.report.latents.payload import SAEPayload, latents_of
from eval_recipes.report.source import read_source
from eval_recipes.results.sidecar import SideTable
from eval_recipes.steering.texts import TEXTS
from saereg_plugin.files import sha256
from tests.eval_recipes.report.latents.latent_files import (
    N,
    level,
    partner,
    write_balance,
    write_examples,
    write_explanations,
    write_scores,
    write_stability,
    write_texts,
)
from tests.eval_recipes.report.result_files import SEEDS, core, record, write

EXPLAINED = [3, 5, 9]
STEERED = [5, 6]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    for seed in SEEDS:
        write_stability(folder, "none", seed)
        write_examples(folder, "none", seed)
    write_explanations(folder, "none", 0, EXPLAINED)
    write_texts(folder, "none", 0, STEERED)
    return folder


def payloads(folder: Path, n: int = 20) -> dict[str, SAEPayload]:
    found = latents_of(read_source(folder), per_sae=n)
    return {one.sae_id: one for one in found}


def shown(payload: SAEPayload) -> list[int]:
    return [int(latent) for latent in payload.data["cards"]]


def test_every_latent_has_its_scalars(results: Path) -> None:
    data = payloads(results, 0)["none-seed0"].data
    assert data["latents"] == N
    assert data["cards"] == {}
    columns = data["columns"]
    assert {len(column) for column in columns.values()} == {N}
    assert columns["stability"] == [level(latent) for latent in range(N)]
    assert columns["density"][4] == 0.01
    assert columns["mean"][:3] == [1.23, 1.23, None]
    assert columns["alive"][:3] == [True, False, True]
    assert columns["score"][3:7] == [0.857, None, 0.857, 0.75]
    assert columns["steering"][4:7] == [None, 0.5, 0.5]
    assert columns["cosine"] == [None] * N


def test_the_cosine_of_encoder_and_decoder_is_that_of_core(
    results: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(results, tmp_path / "results")
    write(copy, core("none", 0))
    columns = payloads(copy, 0)["none-seed0"].data["columns"]
    assert columns["cosine"][:9] == [0.5] * 8 + [None]


def test_firing_forms_and_tenths_are_those_of_the_stability_table(
    results: Path,
) -> None:
    data = payloads(results, N)["none-seed0"].data
    columns = data["columns"]
    assert columns["firing"][:3] == [0.125, 0.0, 0.125]
    assert columns["form"][:3] == [0.75, None, 0.75]
    assert columns["tenth"][:3] == [1, 2, 3]
    stable, unstable = data["cards"]["8"], data["cards"]["5"]
    assert stable["form_chance"] == unstable["form_chance"] == 0.0312
    assert "spans" not in stable
    assert unstable["spans"][0] == [1, 0.06, 0.03, 0.01]
    assert [shares[0] for shares in unstable["spans"]] == [1, 2, 4, 8]


def test_a_stability_table_without_them_is_read(results: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(results, tmp_path / "results")
    (path,) = copy.rglob("*none-seed0_stability.parquet")
    table = pq.read_table(path)
    older = [c for c in table.column_names if not c.startswith(("span", "surface"))]
    pq.write_table(table.select([c for c in older if "rate" not in c]), path)
    (result,) = copy.rglob("*cross_seed/*none-seed0_eval_results.json")
    one = json.loads(result.read_text())
    one["eval_result_unstructured"]["stability_table"]["sha256"] = sha256(path)
    result.write_text(json.dumps(one))
    data = payloads(copy, N)["none-seed0"].data
    assert data["columns"]["firing"] == data["columns"]["form"] == [None] * N
    assert "spans" not in data["cards"]["5"]


def test_costs_and_net_worth_are_those_of_mdl(results: Path, tmp_path: Path) -> None:
    columns = payloads(results, 0)["none-seed0"].data["columns"]
    assert columns["bits"] == columns["net"] == [None] * N
    copy = shutil.copytree(results, tmp_path / "results")
    write_balance(copy, "none", 0)
    columns = payloads(copy, 0)["none-seed0"].data["columns"]
    assert columns["bits"][1:4] == [0.25, None, 0.25]
    assert columns["net"][1:4] == [0.25, None, -0.125]


def test_scores_and_effects_are_those_of_attribution(tmp_path: Path) -> None:
    write_scores(tmp_path, "none", 0)
    data = payloads(tmp_path, 0)["none-seed0"].data
    assert data["latents"] == N
    assert data["columns"]["attribution"][1:4] == [0.25, None, 0.25]
    assert data["columns"]["effect"][1:4] == [0.25, None, -0.125]
    assert data["columns"]["bits"] == [None] * N


def test_an_sae_with_a_result_of_mdl_alone_is_shown(tmp_path: Path) -> None:
    write_balance(tmp_path, "none", 0)
    data = payloads(tmp_path, 0)["none-seed0"].data
    assert data["latents"] == N
    assert data["columns"]["bits"][0] == 0.25


def test_latents_with_a_score_or_a_steered_text_come_first(results: Path) -> None:
    assert shown(payloads(results, 4)["none-seed0"]) == sorted({*EXPLAINED, *STEERED})
    few = payloads(results, 3)["none-seed0"]
    assert shown(few) == [3, 5, 6]
    assert few.data["left_out"] == 1


def test_matches_of_shown_latents_are_shown(results: Path) -> None:
    found = payloads(results, 20)
    for seed in (1, 2):
        matches = {partner(n, 0, seed) for n in (*EXPLAINED, *STEERED)}
        assert matches <= set(shown(found[f"none-seed{seed}"]))


def test_a_match_without_a_card_has_a_few_tokens_around_its_peaks(
    results: Path,
) -> None:
    found = payloads(results, 4)
    for seed in (1, 2):
        data = found[f"none-seed{seed}"].data
        matches = {partner(n, 0, seed) for n in shown(found["none-seed0"])}
        assert matches <= {int(n) for n in (*data["cards"], *data["briefs"])}
        assert not set(data["cards"]) & set(data["briefs"])
        for brief in data["briefs"].values():
            for one in brief["examples"]:
                assert len(one["tokens"]) == len(one["values"]) == 12
                assert one["values"][one["peak"]] == max(one["values"]) > 0


def test_the_rest_is_drawn_from_all_levels_of_stability(results: Path) -> None:
    found = shown(payloads(results, 20)["none-seed1"])
    assert len(found) == 20
    # of ten latents at the highest two levels nearly all are shown
    assert all(count >= 3 for count in Counter(map(level, found)).values())
    assert {level(latent) for latent in found} == {0, 1, 2}


def test_the_choice_and_the_bytes_are_the_same_again(results: Path) -> None:
    once, again = payloads(results), payloads(results)
    assert {k: packed(v.data) for k, v in once.items()} == {
        k: packed(v.data) for k, v in again.items()
    }


def test_a_latent_that_never_fires_is_shown_last(results: Path) -> None:
    for seed in SEEDS:
        assert 2 not in shown(payloads(results, 12)[f"none-seed{seed}"])


def card(folder: Path, latent: int, sae: str = "none-seed0") -> dict[str, Any]:
    return payloads(folder, N)[sae].data["cards"][str(latent)]


def test_examples_are_the_largest_and_some_of_every_band(results: Path) -> None:
    examples = card(results, 3)["examples"]
    assert [one["band"] for one in examples] == [
        *["top"] * 4,
        *["75-100 %"] * 2,
        *["50-75 %"] * 2,
        *["25-50 %", "0-25 %"],
    ]
    assert examples[0]["values"][14:17] == [0, 9.0, 3.0]
    assert examples[6]["values"][15] == 2.88


def test_a_card_has_logits_histogram_and_counts(results: Path) -> None:
    found = card(results, 3)
    assert found["top"] == [[" word", 0.988], ["b", 0.5]]
    assert found["bottom"] == [["c", -0.25]]
    assert (found["edges"], found["counts"]) == ([0.0, 4.5, 9.0], [31, 0])
    assert (found["active"], found["max"]) == (31, 9.0)


def test_a_card_names_the_match_in_each_other_seed(results: Path) -> None:
    one = payloads(results, N)["none-seed0"].data
    assert one["others"] == [
        {"seed": seed, "id": f"none-seed{seed}", "sae": f"none-seed{seed}"}
        for seed in (1, 2)
    ]
    assert one["cards"]["4"]["matches"] == [
        {"decoder": [5, 0.182], "encoder": [5, 0.5], "shared": True},
        {"decoder": [6, 0.182], "encoder": [6, 0.5], "shared": False},
    ]
    assert one["cards"][str(N - 1)]["matches"][0]["decoder"] is None


def test_another_seed_without_results_has_no_label(
    results: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder, ignore=shutil.ignore_patterns("*none-seed2*"))
    others = payloads(folder)["none-seed0"].data["others"]
    assert others[1] == {"seed": 2, "id": "none-seed2", "sae": None}


def test_steered_texts_stand_next_to_their_controls(results: Path) -> None:
    texts = card(results, 5)["texts"]
    assert [one["prompt"] for one in texts] == ["prompt 0", "prompt 1", "prompt 2"]
    assert texts[0] == {
        "prompt": "prompt 0",
        "original": [" as it is", 10.0],
        "steered": {
            "text": " steered at 5",
            "perplexity": 12.3,
            "score": 0.432,
            "success": True,
        },
        "random": texts[0]["random"],
        "unsteered": texts[0]["unsteered"],
    }
    assert texts[0]["random"]["text"] == " random at 5"
    assert texts[2]["steered"]["success"] is False
    about = payloads(results)["none-seed0"].data["about"]["steering"]
    assert about == {"amounts": [5.0, 9.0], "mode": "fixed", "judge": "embedding"}


def test_autointerp_goes_before_the_explanation_of_steering(results: Path) -> None:
    assert card(results, 5)["explanation"] == "words"
    assert card(results, 6)["explanation"] == "concept 6"


def test_explanations_of_saebench_are_read(tmp_path: Path) -> None:
    one = record("autointerp", "none", 0, {})
    one["eval_config"] = {"model_name": "gemma"}
    one["eval_result_unstructured"] = {
        "7": {"latent": 7, "explanation": "dates", "score": 0.93333, "logs": "..."}
    }
    write(tmp_path, one)
    (found,) = latents_of(read_source(tmp_path), per_sae=3)
    assert found.data["cards"]["7"] == {"explanation": "dates", "checked": None}
    assert found.data["columns"]["score"][7] == 0.933
    assert found.data["about"]["judge"] == "a chat model"


def test_precision_and_recall_of_n2g_are_shown(tmp_path: Path) -> None:
    one = record("autointerp", "none", 0, {})
    one["eval_config"] = {"explainer": "n2g"}
    detail = {"explanation": "words", "score": None, "checked_score": 0.5}
    one["eval_result_details"] = [
        {**detail, "latent": 2, "precision": 0.87654, "recall": 0.25},
        {**detail, "latent": 4, "precision": None, "recall": 0.0},
    ]
    write(tmp_path, one)
    (found,) = latents_of(read_source(tmp_path), per_sae=3)
    cards = found.data["cards"]
    assert [list(cards[k]["n2g"]) for k in "24"] == [[0.877, 0.25], [None, 0.0]]
    assert found.data["about"]["judge"] is None


def test_what_is_no_explanation_is_left_out(tmp_path: Path) -> None:
    one = record("autointerp", "none", 0, {})
    one["eval_result_details"] = [
        {"latent": 1, "explanation": "lone \ud800 half", "score": "high"},
        {"latent": 2, "explanation": ["a", "list"], "score": 0.5},
        {"latent": True, "explanation": "no id", "score": 0.5},
        {"latent": -3, "explanation": "no id", "score": 0.5},
        "no latent",
    ]
    write(tmp_path, one)
    (found,) = latents_of(read_source(tmp_path), per_sae=8)
    assert found.data["cards"]["1"]["explanation"] == "lone ? half"
    assert found.data["cards"]["2"]["explanation"] is None
    assert found.data["columns"]["score"][:4] == [None, None, 0.5, None]
    assert packed(found.data)


def test_parts_without_results_are_named(results: Path, tmp_path: Path) -> None:
    missing = payloads(results)["none-seed1"].data["missing"]
    assert set(missing) == {"autointerp", "death", "steering"}
    write(tmp_path, core("none", 0))
    assert latents_of(read_source(tmp_path), per_sae=3) == []


def test_a_damaged_table_is_named_and_the_rest_is_read(
    results: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(results, tmp_path / "results")
    (damaged,) = copy.rglob(f"*seed0{TEXTS.ending}")
    damaged.write_bytes(b"PAR1")
    data = payloads(copy)["none-seed0"].data
    assert "SHA-256" in data["missing"]["steering"]
    assert data["columns"]["score"][3] == 0.857
    assert set(data["columns"]["steering"]) == {None}


def without(folder: Path, side: SideTable, column: str) -> None:
    """Take a column out of the first SAE's table, as if it had been written so."""
    (table,) = folder.rglob(f"*none-seed0{side.ending}")
    pq.write_table(pq.read_table(table).drop_columns([column]), table)
    (result,) = (folder / side.eval).glob("*none-seed0_eval_results.json")
    one = json.loads(result.read_text())
    one["eval_result_unstructured"][side.field]["sha256"] = sha256(table)
    result.write_text(json.dumps(one))


@pytest.mark.parametrize(
    ("side", "column"),
    [
        (TEXTS, "embedding_status"),
        (TEXTS, "embedding_success"),
        (STABILITY, "encoder_partner_2"),
        (STABILITY, "shared_1"),
    ],
)
def test_a_table_that_lacks_columns_is_missing_and_the_rest_is_read(
    results: Path, tmp_path: Path, side: SideTable, column: str
) -> None:
    copy = shutil.copytree(results, tmp_path / "results")
    without(copy, side, column)
    data = payloads(copy)["none-seed0"].data
    assert "lacks the columns" in data["missing"][side.eval]
    assert data["columns"]["score"][3] == 0.857


def test_a_latent_takes_a_few_kilobytes(results: Path) -> None:
    cards = payloads(results, N)["none-seed1"].data["cards"]
    assert max(len(compact(one)) for one in cards.values()) < 4_500
    # values keep three digits, however many the table has
    assert "0.123456" not in compact(cards)
