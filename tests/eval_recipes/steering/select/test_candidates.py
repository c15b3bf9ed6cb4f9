"""Which latents are steered with, and which texts follow from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from eval_recipes.results.subject import Subject
from eval_recipes.saebench.autointerp.figures import Explanation
from eval_recipes.steering.options import make_config, uses_chat
from eval_recipes.steering.select.candidates import (
    alive_pool,
    draw,
    explanations_of,
    given,
    interp_score,
    partners_of,
    stability_of,
    stable_pool,
    with_explanations,
)
from saereg_plugin.errors import InputError

SUBJECT = Subject("lab/run", "k32/s0", "k32", 0)


def write_record(path: Path, eval: str, **fields: Any) -> Path:
    record = {"eval_type_id": eval, "eval_result_metrics": {}, **fields}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def test_the_pool_is_what_is_alive_by_weights() -> None:
    decoder = torch.eye(4)
    encoder = torch.stack(
        [
            torch.tensor([2.0, 0, 0, 0]),  # cosine 1
            torch.tensor([5.0, 0.4, 0, 0]),  # .08
            torch.tensor([0, 5.0, 1.0, 0]),  # .196
            torch.tensor([0, 0, 0, -1.0]),  # -1
        ]
    )
    assert alive_pool(encoder.T, decoder, threshold=0.1) == [0, 2]
    assert alive_pool(encoder.T, decoder, threshold=0.05) == [0, 1, 2]
    assert alive_pool(encoder.T.bfloat16(), decoder.bfloat16(), threshold=0.1) == [0, 2]


def test_a_draw_belongs_to_its_seed() -> None:
    pool = list(range(100, 200))
    first = draw(pool, 10, seed=3)
    assert first == draw(pool, 10, seed=3) != draw(pool, 10, seed=4)
    assert len(set(first.ids)) == 10 and set(first.ids) <= set(pool)
    assert first.pool == 100
    # more latents are further latents
    assert draw(pool, 30, seed=3).ids[:10] == first.ids
    every = draw(pool, 300, seed=3)
    assert sorted(every.ids) == pool
    before = torch.get_rng_state()
    draw(pool, 5, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(InputError, match="No latent is left"):
        draw([], 3, seed=0)
    with pytest.raises(InputError, match=r"\[8\] were asked for, but the SAE has 8"):
        given([0, 8], d_sae=8)
    assert given([7, 0], d_sae=8).ids == (7, 0)


def test_latents_without_a_valid_explanation_are_counted() -> None:
    texts = {5: "the sea", 6: "  ", 9: "law"}
    explanations = {j: Explanation(text, None, 0.5) for j, text in texts.items()}
    found = with_explanations(given([9, 6, 7, 5], d_sae=10), explanations)
    assert found.ids == (9, 5) and found.without == (6, 7)
    assert found.explanations[9].text == "law"
    assert interp_score(explanations[5]) == 0.5
    assert interp_score(Explanation("x", 0.9, 0.5)) == 0.9
    assert interp_score(Explanation("x", None, None)) is None


def test_explanations_and_stability_are_read_from_results(tmp_path: Path) -> None:
    name = "lab_run_k32_s0_eval_results.json"
    details = [
        {"latent": 3, "explanation": "sea", "score": 0.8, "checked_score": 0.7},
        {"latent": 4, "explanation": None, "score": None, "checked_score": None},
    ]
    write_record(
        tmp_path / "autointerp" / name, "autointerp", eval_result_details=details
    )
    assert explanations_of(tmp_path, SUBJECT) == {3: Explanation("sea", 0.8, 0.7)}
    with pytest.raises(InputError, match="0 results of cross_seed"):
        stability_of(tmp_path, SUBJECT)
    table = pa.table(
        {
            "latent": [0, 1, 2],
            "alive": [True] * 3,
            "stability": [1.0, 1 / 3, 0.0],
            "decoder_partner_1": [7, 8, None],
            "shared_1": [True, False, False],
            "decoder_partner_2": [4, 3, 1],
            "shared_2": [True, True, False],
        }
    )
    path = tmp_path / "cross_seed" / "lab_run_k32_s0_stability.parquet"
    path.parent.mkdir()
    pq.write_table(table, path)
    from saereg_plugin.files import sha256

    named = {"file": path.name, "rows": 3, "sha256": sha256(path)}
    write_record(
        tmp_path / "cross_seed" / name,
        "cross_seed",
        eval_result_unstructured={"stability_table": named, "saereg": {}},
    )
    stability = stability_of(tmp_path, SUBJECT)
    assert stability == {0: 1.0, 1: pytest.approx(1 / 3), 2: 0.0}
    # a partner that is not shared is none
    assert partners_of(tmp_path, SUBJECT) == {0: {1: 7, 2: 4}, 1: {2: 3}, 2: {}}
    assert stable_pool([2, 1, 0, 9], stability, minimum=1 / 3) == [1, 0]
    assert stable_pool([1, 0], stability, minimum=0.5) == [0]
    with pytest.raises(InputError, match="'k32/s0' of release 'lab/run'"):
        explanations_of(tmp_path / "cross_seed", SUBJECT)


def test_options_are_checked_together() -> None:
    assert make_config({}).n_latents == 300
    assert make_config({"latents": [3], "select": "stable"}).latents == [3]
    for options, message in (
        ({"judges": ["chat", "chat"]}, "each value once"),
        ({"amounts": [float("inf")]}, "expected a finite number"),
        ({"latents": [-1]}, "ids from 0 on"),
        ({"top_p": 0}, "top_p is 0"),
        ({"contrast": ["a"]}, "contrast"),
        ({"greedy": True, "samples_per_prompt": 2}, "1 with greedy decoding"),
        ({"calibration_pairs": 9}, "9 calibration pairs are too few .* expected 10"),
        ({"random_seed": 3}, "for a part of the run only; .* --seed"),
        ({"corpus": "x"}, r"--corpus \(RunContext.corpus\)"),
        (
            {"latents": [3], "select": "contrast", "contrast": ["a", "b"]},
            "none with select=contrast",
        ),
    ):
        with pytest.raises(InputError, match=message):
            make_config(options)
    # .05 of both orders of 10 pairs is one, whatever rounding makes of it
    assert make_config({"calibration_pairs": 10}).calibration_pairs == 10
    assert not uses_chat(make_config({}))
    named = make_config({"judge_model": "m"})
    assert named.judges == ["chat", "embedding", "log_probability"]
    assert uses_chat(make_config({"judge_base_url": "http://x"}))
    # who says which judges means it
    assert not uses_chat(make_config({"judge_model": "m", "judges": ["embedding"]}))
    assert uses_chat(make_config({"explainer": "judge"}))
    assert not uses_chat(make_config({"explainer": "judge", "explanations": "x"}))
