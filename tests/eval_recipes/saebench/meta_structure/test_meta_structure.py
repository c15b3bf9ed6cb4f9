"""The meta_structure recipe around the real upstream eval: values, determinism, isolation."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sae_bench.evals.meta_structure import main as upstream_meta
from sae_bench.evals.meta_structure.eval_output import MetaStructureEvalOutput
from sae_bench.sae_bench_utils import general_utils
from sae_lens import SAE

from eval_recipes.results.files import read_result, result_path
from eval_recipes.results.schemas import schema_text
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.meta_structure import main as recipe
from eval_recipes.saebench.meta_structure.output import (
    CorrectedMetaStructureOutput,
    random_rows,
    row_errors,
    variance_explained,
)
from eval_recipes.saebench.upstream import folded_copy
from saereg_plugin.errors import InputError
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae
from tests.oracles import meta_structure_oracle

EVALUATION = Named("meta_structure")

pytestmark = pytest.mark.slow

HOOK = "blocks.2.hook_resid_post"
D_IN = 32
OPTIONS = {"train_steps": 30, "train_batch_size": 64, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    folder = tmp_path_factory.mktemp("tiny-meta")
    mean = torch.linspace(-1, 1, D_IN)
    broken = tiny_sae("no-such-model", HOOK, mean, 1)
    broken.W_dec.data[3, 5] = torch.nan
    saes = {
        "broken": broken,
        "a": tiny_sae("no-such-model", HOOK, mean, 0),
        "b": tiny_sae("no-such-model", HOOK, mean, 2),
    }
    return RunContext(
        save_release(folder, saes),
        folder / "out",
        artifacts=folder / "artifacts",
        options={"meta_structure": OPTIONS},
    )


@pytest.fixture(scope="module")
def causes(context: RunContext) -> dict[str, str]:
    return {failure.sae_id: failure.cause for failure in EVALUATION.run(context)}


@pytest.fixture(scope="module")
def records(context: RunContext, causes: dict[str, str]) -> dict[str, dict[str, Any]]:
    assert set(causes) == {"broken"}
    return {sae_id: record_of(context, sae_id) for sae_id in ("a", "b")}


def record_of(context: RunContext, sae_id: str) -> dict[str, Any]:
    release = context.subjects[0].release
    return read_result(result_path(context.out, "meta_structure", release, sae_id))


def figures(record: dict[str, Any]) -> dict[str, Any]:
    """Every metric but the wall-clock time, the one that upstream takes."""
    metrics = {name: dict(v) for name, v in record["eval_result_metrics"].items()}
    assert metrics["meta_structure"].pop("train_time_seconds") > 0
    return metrics


def subject(context: RunContext, sae_id: str) -> Subject:
    return next(s for s in context.subjects if s.sae_id == sae_id)


def test_results_are_valid_and_a_broken_sae_leaves_none(
    context: RunContext, causes: dict[str, str], records: dict[str, dict[str, Any]]
) -> None:
    assert "finite" in causes["broken"] or "NaN" in causes["broken"]
    assert len(list(context.out.rglob("*.json"))) == 2
    schema = json.loads(schema_text(CorrectedMetaStructureOutput))
    for sae_id, record in records.items():
        TypeAdapter(MetaStructureEvalOutput).validate_python(record)
        TypeAdapter(CorrectedMetaStructureOutput).validate_python(record)
        jsonschema.validate(record, schema)
        assert record["sae_lens_id"] == sae_id
        assert record["eval_config"]["random_seed"] == context.seed


def test_upstream_called_directly_gives_the_same(
    context: RunContext, records: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """By its own entry point, seeded as its script would, by release and id."""
    config = recipe.config_of(context, EVALUATION.options(context))
    release = context.subjects[0].release
    folded = folded_copy(subject(context, "a").load())
    torch.manual_seed(context.seed)
    random.seed(context.seed)
    direct = upstream_meta.run_eval(config, [(release, folded)], "cpu", str(tmp_path))  # type: ignore[list-item]
    found = records["a"]["eval_result_metrics"]["meta_structure"]
    assert list(direct.values()) == pytest.approx(
        [found["decoder_fraction_variance_explained"]], abs=1e-6
    )


def test_alone_in_another_order_warm_and_cold_give_equal_figures(
    context: RunContext, records: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    both = [subject(context, "b"), subject(context, "a")]
    warm = replace(context, subjects=both, out=tmp_path / "warm")
    cold = replace(
        context, subjects=both[1:], out=tmp_path / "cold", artifacts=tmp_path / "art"
    )
    torch.manual_seed(99)
    for changed in (warm, cold):
        assert EVALUATION.run(changed) == []
        for item in changed.subjects:
            assert figures(record_of(changed, item.sae_id)) == figures(
                records[item.sae_id]
            )
    assert figures(records["a"]) != figures(records["b"])
    other = replace(cold, seed=1, out=tmp_path / "seed")
    EVALUATION.run(other)
    assert figures(record_of(other, "a")) != figures(records["a"])


def test_runs_with_gradients_off_and_leaves_no_trace(
    context: RunContext, records: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    before = (
        upstream_meta._decoder_variance_metrics,
        general_utils.load_and_format_sae,
    )
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    changed = replace(context, out=tmp_path)
    with torch.no_grad():
        # one fails, one does not
        failures = EVALUATION.run(replace(changed, subjects=context.subjects[:2]))
        assert not torch.is_grad_enabled()
    assert [failure.sae_id for failure in failures] == ["broken"]
    assert figures(record_of(changed, "a")) == figures(records["a"])
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert before == (
        upstream_meta._decoder_variance_metrics,
        general_utils.load_and_format_sae,
    )


def test_another_sae_of_the_same_name_gets_its_own_result(
    context: RunContext, records: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    sae = tiny_sae("no-such-model", HOOK, torch.linspace(-1, 1, D_IN), 5)
    subjects = save_release(tmp_path / context.subjects[0].release, {"a": sae})
    changed = replace(context, subjects=subjects, out=tmp_path / "out")
    assert EVALUATION.run(changed) == []
    mine = record_of(changed, "a")["eval_result_metrics"]
    theirs = records["a"]["eval_result_metrics"]
    name = "fraction_variance_explained"
    assert mine["corrected"][name] != theirs["corrected"][name]
    baseline = "random_fraction_variance_explained"
    assert mine["corrected"][baseline] == theirs["corrected"][baseline]


@pytest.fixture
def trained(context: RunContext) -> Iterator[tuple[Any, torch.Tensor]]:
    sae: SAE[Any] = folded_copy(subject(context, "a").load())
    decoder = sae.W_dec.detach()
    config = recipe.config_of(context, EVALUATION.options(context))
    torch.manual_seed(0)
    meta, _ = upstream_meta._train_meta_structure_on_decoder(decoder, 64, config, "cpu")
    yield meta.eval(), decoder


def test_figure_is_the_oracles_whatever_the_batch_size(
    trained: tuple[Any, torch.Tensor],
) -> None:
    meta, decoder = trained
    expected = meta_structure_oracle.variance_explained(meta, decoder)
    assert 0.02 < expected < 0.95
    upstreams: set[float] = set()
    for size in (D_SAE, 100, 7):
        errors = row_errors(meta, decoder, batch_size=size)
        estimate = variance_explained(errors, seed=0)
        assert estimate.value == pytest.approx(expected, abs=1e-5)
        assert estimate.low < estimate.value < estimate.high
        upstreams.add(upstream_meta._decoder_variance_metrics(meta, decoder, size)[0])
    # what is corrected: upstream's figure depends on the batch size
    assert max(upstreams) - min(upstreams) > 1e-4


def test_upstream_is_right_where_one_batch_holds_every_row(
    records: dict[str, dict[str, Any]],
) -> None:
    for record in records.values():
        metrics = record["eval_result_metrics"]
        assert metrics["corrected"]["fraction_variance_explained"] == pytest.approx(
            metrics["meta_structure"]["decoder_fraction_variance_explained"], abs=1e-5
        )


def test_corrected_figures_hang_together(records: dict[str, dict[str, Any]]) -> None:
    for record in records.values():
        found = record["eval_result_metrics"]["corrected"]
        name = "fraction_variance_explained"
        assert found[f"{name}_n"] == D_SAE
        assert found["meta_width"] == D_SAE // 4
        assert found["above_random"] == found[name] - found[f"random_{name}"]
        # the tiny SAEs are random and tied: every row alive, nothing beyond chance
        assert found[f"{name}_alive_n"] == D_SAE
        assert found[f"{name}_alive"] == found[name]
        assert abs(found["above_random"]) < 0.05


def test_dead_latents_are_left_out_of_the_alive_figure(
    trained: tuple[Any, torch.Tensor],
) -> None:
    meta, decoder = trained
    errors = row_errors(meta, decoder, batch_size=64)
    mask = torch.arange(D_SAE) % 3 == 0
    found = recipe.corrected_metrics(errors, mask, random=0.0, meta_width=64, seed=0)
    rows, residual = decoder.double().numpy()[mask], errors.residual[mask]
    expected = 1 - residual.sum() / np.square(rows - rows.mean(0)).sum()
    assert found.fraction_variance_explained_alive == pytest.approx(expected)
    assert found.fraction_variance_explained_alive_n == int(mask.sum())
    one = recipe.corrected_metrics(
        errors, torch.arange(D_SAE) == 0, random=0.0, meta_width=64, seed=0
    )
    assert one.fraction_variance_explained_alive is None


def test_random_rows_are_unit_and_follow_the_seed() -> None:
    rows = random_rows(50, 8, seed=3)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(50))
    assert torch.equal(rows, random_rows(50, 8, seed=3))
    assert not torch.equal(rows, random_rows(50, 8, seed=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_step": 1}, "Did you mean 'train_steps'"),
        ({"train_steps": 0}, "train_steps is 0; expected at least 1"),
        ({"k": 2.5}, "k is 2.5; expected a whole number"),
        ({"width_ratio": 0}, "width_ratio is 0; expected above 0"),
        (
            {"learning_rate": float("nan")},
            "learning_rate is nan; expected a finite number",
        ),
        ({"weight_decay": "x"}, "weight_decay is 'x'; expected a number"),
        ({"autocast": 1}, "autocast is 1; expected true or false"),
        ({"dtype": "float31"}, "dtype is 'float31'; expected 'float32'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EVALUATION.check(RunContext([], Path("x"), options={"meta_structure": options}))
