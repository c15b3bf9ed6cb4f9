"""The vocabulary recipe: figures against plain ones, baseline, tables, bad options."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from eval_recipes.results.files import load_results, read_result, result_path
from eval_recipes.results.schemas import schema_text
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.vocabulary.output import (
    LAYERS_FILE,
    VocabularyEvalOutput,
    layer_table,
)
from saereg_plugin.errors import InputError
from saereg_plugin.files import sha256
from saereg_plugin.metrics.similarity import (
    ALIGNED_THRESHOLD,
    TokenAlignment,
    aligned_mask,
    covered_tokens,
    nearest_token,
)
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae

EVALUATION = Named("vocabulary")

D_IN, TOKENS = 32, 500
PLANTED = 60
"""Latents of the SAE "near" whose rows lie close to a token, two to a token."""


def embeddings() -> torch.Tensor:
    rows = torch.randn(TOKENS, D_IN, generator=torch.Generator().manual_seed(3))
    return rows * torch.linspace(0.1, 5, TOKENS)[:, None]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    folder = tmp_path_factory.mktemp("tiny-vocabulary")
    save_file({"wte.weight": embeddings()}, folder / "e.safetensors")
    mean = torch.zeros(D_IN)
    saes = {
        "near": tiny_sae("no-such-model", "blocks.2.hook_resid_post", mean, 0),
        "far": tiny_sae("no-such-model", "blocks.2.hook_resid_post", mean, 1),
        "later": tiny_sae("no-such-model", "blocks.10.hook_resid_post", mean, 2),
        "broken": tiny_sae("no-such-model", "blocks.2.hook_resid_post", mean, 3),
    }
    noise = torch.randn(PLANTED, D_IN, generator=torch.Generator().manual_seed(4))
    for latent in range(PLANTED):
        row = embeddings()[latent // 2 + 7]
        saes["near"].W_dec.data[latent] = row + 0.3 * row.norm() * noise[latent] / 6
    # half of what is near does not come from an alive latent
    rows = saes["near"].W_dec.data[:PLANTED].T.clone()
    rows[:, : PLANTED // 2] *= -1
    saes["near"].W_enc.data[:, :PLANTED] = rows
    saes["broken"].W_dec.data[0, 0] = torch.nan
    return RunContext(
        save_release(folder, saes),
        folder / "out",
        options={"vocabulary": {"embeddings": str(folder / "e.safetensors")}},
    )


@pytest.fixture(scope="module")
def records(context: RunContext) -> dict[str, dict[str, Any]]:
    failures = EVALUATION.run(context)
    assert [failure.sae_id for failure in failures] == ["broken"]
    assert "NaN" in failures[0].cause
    return {sae_id: record_of(context, sae_id) for sae_id in ("near", "far", "later")}


def record_of(context: RunContext, sae_id: str) -> dict[str, Any]:
    return read_result(path_of(context, sae_id))


def path_of(context: RunContext, sae_id: str) -> Path:
    release = context.subjects[0].release
    return result_path(context.out, "vocabulary", release, sae_id)


def subject(context: RunContext, sae_id: str) -> Subject:
    return next(s for s in context.subjects if s.sae_id == sae_id)


def plain_figures(rows: torch.Tensor) -> dict[str, float]:
    """The definitions, with the whole matrix of cosines."""
    cosines = torch.cosine_similarity(
        rows.double()[:, None], embeddings().double()[None], dim=-1
    )
    best = cosines.max(dim=1)
    aligned = best.values >= 0.8
    tokens = {int(token) for token in best.indices[aligned]}
    return {
        "aligned_fraction": float(aligned.double().mean()),
        "mean_max_cos": float(best.values.mean()),
        "token_coverage": len(tokens) / TOKENS,
    }


def test_figures_are_those_of_the_definitions(
    context: RunContext, records: dict[str, dict[str, Any]]
) -> None:
    for sae_id, record in records.items():
        own = record["eval_result_metrics"]["vocabulary"]
        rows = subject(context, sae_id).load().W_dec.detach()
        for name, expected in plain_figures(rows).items():
            assert own[name] == pytest.approx(expected, abs=1e-6)
            assert own[f"{name}_ci_low"] <= own[name] <= own[f"{name}_ci_high"]
        assert own["aligned_fraction_n"] == own["mean_max_cos_n"] == D_SAE
        assert own["token_coverage_n"] == TOKENS


def test_planted_rows_are_found(records: dict[str, dict[str, Any]]) -> None:
    near = records["near"]["eval_result_metrics"]["vocabulary"]
    far = records["far"]["eval_result_metrics"]["vocabulary"]
    assert near["aligned_fraction"] == PLANTED / D_SAE
    assert near["token_coverage"] == PLANTED / 2 / TOKENS
    # the first half is not alive, the second is
    alive = near["aligned_fraction_alive_n"]
    assert alive < D_SAE
    assert near["aligned_fraction_alive"] == pytest.approx(PLANTED / 2 / alive)
    assert far["aligned_fraction"] == 0
    assert near["above_random"] == near["aligned_fraction"]
    assert 0 < near["above_random_ci_low"] < near["above_random"]
    assert near["above_random"] < near["above_random_ci_high"] < 1
    assert near["above_random_n"] == D_SAE
    # neither has an aligned latent: either may have a rare one, which the interval allows
    assert far["above_random"] == 0
    assert -0.05 < far["above_random_ci_low"] < 0 < far["above_random_ci_high"] < 0.05


def test_baseline_is_a_random_dictionary_of_the_seed(
    context: RunContext, records: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    baselines = [r["eval_result_metrics"]["baseline"] for r in records.values()]
    assert baselines[0] == baselines[1] == baselines[2]
    rows = torch.randn(
        D_SAE, D_IN, generator=torch.Generator().manual_seed(context.seed)
    )
    for name, expected in plain_figures(rows).items():
        assert baselines[0][name] == pytest.approx(expected, abs=1e-6)
    far = [subject(context, "far")]
    other = replace(context, subjects=far, out=tmp_path, seed=5)
    assert EVALUATION.run(other) == []
    changed = record_of(other, "far")["eval_result_metrics"]
    assert changed["baseline"] != baselines[0]
    value = changed["vocabulary"]["mean_max_cos"]
    assert value == records["far"]["eval_result_metrics"]["vocabulary"]["mean_max_cos"]


def test_results_have_saebenchs_format(
    context: RunContext, records: dict[str, dict[str, Any]]
) -> None:
    schema = json.loads(schema_text(VocabularyEvalOutput))
    for record in records.values():
        TypeAdapter(VocabularyEvalOutput).validate_python(record)
        jsonschema.validate(record, schema)
    frame = load_results(context.out)
    assert "vocabulary/aligned_fraction" in set(frame["metric"])


def test_table_beside_the_result(
    context: RunContext, records: dict[str, dict[str, Any]]
) -> None:
    named = records["near"]["eval_result_unstructured"]["latents"]
    path = path_of(context, "near").with_name(named["file"])
    assert sha256(path) == named["sha256"]
    table = pq.read_table(path).to_pandas()
    assert len(table) == named["rows"] == D_SAE
    assert table["token_id"].tolist()[:4] == [7, 7, 8, 8]
    assert table["token"].isna().all()
    assert table["aligned"].sum() == PLANTED
    assert not table["alive"][: PLANTED // 2].any()
    assert table["alive"][PLANTED // 2 : PLANTED].all()
    assert len(list(path.parent.glob("*.parquet"))) == 3


def test_layers_stand_in_one_table(
    context: RunContext, records: dict[str, dict[str, Any]]
) -> None:
    table = pd.read_csv(context.out / "vocabulary" / LAYERS_FILE)
    assert table["layer"].tolist() == [2, 10]
    assert table["saes"].tolist() == [2, 1]
    assert table["interval_over"].tolist() == ["SAEs", "latents"]
    assert table["aligned_fraction"].tolist() == pytest.approx([PLANTED / D_SAE / 2, 0])
    assert table["aligned_fraction_low"][0] < 0 < table["aligned_fraction_high"][0]
    later = records["later"]["eval_result_metrics"]["vocabulary"]
    assert table["mean_max_cos"][1] == pytest.approx(later["mean_max_cos"])
    own = [
        records[name]["eval_result_metrics"]["vocabulary"] for name in ("near", "far")
    ]
    for figure in ("aligned_fraction", "mean_max_cos", "token_coverage"):
        a, b = (metrics[figure] for metrics in own)
        # Student's t of two values: one degree of freedom
        half = 12.7062 * abs(a - b) / 2
        assert table[figure][0] == pytest.approx((a + b) / 2)
        assert table[f"{figure}_low"][0] == pytest.approx((a + b) / 2 - half, rel=1e-4)
        assert table[f"{figure}_high"][0] == pytest.approx((a + b) / 2 + half, rel=1e-4)
        for end in ("ci_low", "ci_high", "n"):
            expected = later[f"{figure}_{end}"]
            shown = table[f"{figure}_{end.removeprefix('ci_')}"][1]
            assert shown == pytest.approx(expected)
    assert table["mean_max_cos_n"].tolist() == [2, D_SAE]
    assert table["token_coverage_n"].tolist() == [2, TOKENS]
    # one random dictionary stands beside all SAEs of a shape
    assert table["random_aligned_fraction_n"].tolist() == [D_SAE, D_SAE]
    assert (table["random_aligned_fraction_high"] > 0).all()
    assert layer_table(context.out).shape == table.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.8}, "Unknown vocabulary option 'threshold'"),
        ({"random_seed": 1}, "expected it for all of it: --seed"),
        (
            {"aligned_threshold": 1.5},
            "aligned_threshold is 1.5; expected at most 1",
        ),
        ({"n_resamples": 0}, "vocabulary.n_resamples is 0"),
        ({"embeddings": "/nowhere.safetensors"}, "cannot be read as safetensors"),
    ],
)
def test_bad_options_are_refused(
    context: RunContext, options: dict[str, Any], message: str
) -> None:
    changed = replace(context, options={"vocabulary": options})
    with pytest.raises(InputError, match=message):
        EVALUATION.check(changed)


def test_another_embeddings_file_is_another_configuration(
    context: RunContext, tmp_path: Path
) -> None:
    def key(rows: torch.Tensor) -> Any:
        save_file({"wte.weight": rows}, tmp_path / "e.safetensors")
        options = {"vocabulary": {"embeddings": str(tmp_path / "e.safetensors")}}
        return EVALUATION.key(replace(context, options=options))

    assert key(embeddings()) == key(embeddings())
    assert key(embeddings()) != key(embeddings() * 2)


def test_a_model_that_cannot_be_had_fails_its_sae_alone(
    context: RunContext, tmp_path: Path
) -> None:
    changed = replace(context, options={}, out=tmp_path)
    failures = EVALUATION.run(changed)
    assert len(failures) == len(context.subjects)
    assert "Unknown model 'no-such-model'" in failures[0].cause


def test_tokens_of_the_models_own_embeddings_are_spelled(
    model_name: str, tmp_path: Path
) -> None:
    sae = tiny_sae(model_name, "blocks.2.hook_resid_post", torch.zeros(576), 0)
    folder = tmp_path / "own"
    context = RunContext(save_release(folder, {"a": sae}), tmp_path / "out")
    assert EVALUATION.run(context) == []
    table = pq.read_table(next((tmp_path / "out").rglob("*.parquet"))).to_pandas()
    assert table["token"].str.len().gt(0).all()
    figures = record_of(context, "a")["eval_result_metrics"]["vocabulary"]
    assert figures["token_coverage_n"] == 49_152
    assert figures["aligned_fraction"] == 0


def test_pure_functions() -> None:
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    tokens = torch.tensor([[0.0, 3.0], [1.0, 0.1], [-1.0, 0.0]])
    found = nearest_token(rows, tokens)
    assert found.token.tolist()[:2] == [1, 0]
    torch.testing.assert_close(
        found.cosine, torch.tensor([1 / 1.01**0.5, 1.0, 0.0]), atol=1e-6, rtol=0
    )
    assert aligned_mask(found).tolist() == [True, True, False]
    assert covered_tokens(found, 3).tolist() == [True, True, False]
    exact = TokenAlignment(torch.tensor([2]), torch.tensor([ALIGNED_THRESHOLD]))
    assert covered_tokens(exact, 3).tolist() == [False, False, True]
