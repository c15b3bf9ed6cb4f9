"""The core recipe around the real upstream eval: values, faults, global state."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from sae_bench.evals.core import main as upstream_core
from sae_bench.evals.core.eval_output import CoreEvalOutput
from sae_bench.sae_bench_utils import general_utils
from sae_lens import ActivationsStore
from transformer_lens import HookedTransformer

from eval_recipes.results.files import load_results, read_result, result_path
from eval_recipes.results.schemas import schema_text
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout import heldout_of
from eval_recipes.saebench.core.main import doubts, without_kl_of_zero
from eval_recipes.saebench.core.output import (
    NULLABLE,
    CorrectedCoreMetricCategories,
    CorrectedCoreOutput,
)
from eval_recipes.saebench.upstream import UpstreamError, folded_copy, upstream
from saereg_plugin.errors import InputError
from saereg_plugin.sources import corpora
from tests.conftest import HOOK_NAME
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae

EVALUATION = Named("core")

pytestmark = pytest.mark.slow

OPTIONS = {
    "n_eval_reconstruction_batches": 1,
    "n_eval_sparsity_variance_batches": 1,
    "eval_batch_size_prompts": 4,
}


@pytest.fixture(scope="session")
def model(whole_model: HookedTransformer) -> HookedTransformer:
    """The whole model, since the losses of four layers are infinite."""
    return whole_model


@pytest.fixture(scope="module")
def context(
    tmp_path_factory: pytest.TempPathFactory,
    model_name: str,
    model: HookedTransformer,
    activations: torch.Tensor,
) -> RunContext:
    folder = tmp_path_factory.mktemp("tiny-core")
    mean = activations.mean(0)
    broken = tiny_sae(model_name, HOOK_NAME, mean, 1)
    broken.W_enc.data[0, 5] = torch.nan
    good = tiny_sae(model_name, HOOK_NAME, mean, 0)
    # Has no direction, and so no cosine.
    good.W_dec.data[1] = 0
    saes = {
        "broken": broken,
        "lost": tiny_sae(model_name, HOOK_NAME.replace("post", "pst"), mean, 2),
        "good": good,
    }
    context = RunContext(
        save_release(folder, saes),
        folder / "out",
        heldout_tokens=640,
        options={"core": OPTIONS},
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    return context


@pytest.fixture(scope="module")
def failures(context: RunContext) -> list[Failure]:
    return EVALUATION.run(context)


@pytest.fixture(scope="module")
def subject(context: RunContext) -> Subject:
    return context.subjects[2]


@pytest.fixture(scope="module")
def record(
    context: RunContext, subject: Subject, failures: list[Failure]
) -> dict[str, object]:
    assert "good" not in {failure.sae_id for failure in failures}
    return read_result(result_path(context.out, "core", subject.release, "good"))


def test_bad_saes_fail_with_their_cause_and_leave_no_file(
    context: RunContext, failures: list[Failure]
):
    causes = {failure.sae_id: failure.cause for failure in failures}
    assert set(causes) == {"broken", "lost"}
    assert "NaN" in causes["broken"]
    assert "Did you mean" in causes["lost"]
    assert len(list(context.out.rglob("*.json"))) == 1


def test_result_has_true_ids_and_both_sets_of_figures(
    context: RunContext, record: dict[str, object]
):
    assert record["eval_type_id"] == "core"
    assert record["sae_lens_id"] == "good"
    assert record["eval_config"]["dataset"] == "embedded/heldout"  # type: ignore[index]
    metrics = record["eval_result_metrics"]
    heldout = heldout_of(context)["good"]
    assert metrics["corrected"]["explained_variance"] == heldout.explained_variance  # type: ignore[index]
    assert metrics["corrected"]["frac_alive"] == heldout.alive / D_SAE  # type: ignore[index]
    assert metrics["sparsity"]["l0"] == pytest.approx(8)  # type: ignore[index]
    row = load_results(context.out).query("metric == 'corrected/l0'").iloc[0]
    assert (row.group, row.seed) == ("tiny", 2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_kl_divergence_that_is_not_finite_is_left_without_a_value(
    record: dict[str, Any], value: float
):
    behavior = _metrics(record).model_behavior_preservation
    assert without_kl_of_zero(behavior) == behavior
    broken = dataclasses.replace(behavior, kl_div_with_sae=value)  # pyright: ignore[reportArgumentType]
    mended = without_kl_of_zero(broken)
    assert mended == dataclasses.replace(behavior, kl_div_with_sae=-1.0)  # pyright: ignore[reportArgumentType]


def test_figures_that_the_model_makes_useless_are_told(record: dict[str, Any]):
    metrics = _metrics(record)
    assert doubts(metrics) == []
    metrics.model_behavior_preservation.kl_div_score = math.nan
    loss = metrics.model_performance_preservation
    loss.ce_loss_with_ablation = loss.ce_loss_without_sae
    kl, score = doubts(metrics)
    assert "probability 0" in kl
    assert "CE score says nothing" in score


def _metrics(record: dict[str, Any]) -> CorrectedCoreMetricCategories:
    adapter = TypeAdapter(CorrectedCoreMetricCategories)
    return adapter.validate_python(record["eval_result_metrics"])


def test_latents_that_never_fire_are_null(record: dict[str, object]):
    details: list[dict[str, float | None]] = record["eval_result_details"]  # type: ignore[assignment]
    assert details[0]["consistent_activation_heuristic"] is None
    assert details[0]["feature_density"] == 0
    fired = [d for d in details if d["feature_density"]]
    assert fired
    assert all(d["consistent_activation_heuristic"] for d in fired)
    assert [d["index"] for d in details if d["encoder_decoder_cosine_sim"] is None] == [
        1
    ]


def test_result_is_valid_but_for_the_values_that_upstream_has_no_place_for(
    record: dict[str, object],
):
    schema = json.loads(schema_text(CorrectedCoreOutput))
    jsonschema.validate(record, schema)
    with pytest.raises(ValidationError) as error:
        TypeAdapter(CoreEvalOutput).validate_python(record)
    assert {found["loc"][-1] for found in error.value.errors()} == NULLABLE
    # Upstream writes -1 for them; so its validator takes the rest as it is.
    filled: Any = copy.deepcopy(record)
    for detail in filled["eval_result_details"]:
        detail.update({name: -1.0 for name in NULLABLE if detail[name] is None})
    TypeAdapter(CoreEvalOutput).validate_python(filled)


def test_values_are_those_of_upstream_called_directly(
    context: RunContext,
    subject: Subject,
    record: dict[str, object],
    model: HookedTransformer,
    tmp_path: Path,
):
    (other,) = save_release(
        tmp_path / "other",
        {"x": tiny_sae(model.cfg.model_name, HOOK_NAME, torch.zeros(576), 3)},
    )
    # With what another SAE has left in the shared passes, too.
    again = replace(context, subjects=[other, subject], out=tmp_path / "out")
    assert EVALUATION.run(again) == []
    warm = read_result(result_path(again.out, "core", subject.release, "good"))
    with upstream("core", subject, subject.load(), model, seed=0):
        upstream_core.multiple_evals(
            [(subject.release, subject.sae_id)],
            **OPTIONS,
            compute_featurewise_density_statistics=True,
            compute_featurewise_weight_based_metrics=True,
            exclude_special_tokens_from_reconstruction=True,
            dataset=corpora.ensure("embedded", "heldout"),
            context_size=32,
            output_folder=str(tmp_path / "upstream"),
            device="cpu",
        )
    (path,) = (tmp_path / "upstream").glob("*.json")
    theirs = json.loads(path.read_text())
    for ours in (record, warm):
        for category, metrics in theirs["eval_result_metrics"].items():
            assert ours["eval_result_metrics"][category] == pytest.approx(  # type: ignore[index]
                metrics, abs=1e-6
            )
        for mine, detail in zip(
            ours["eval_result_details"],  # type: ignore[arg-type]
            theirs["eval_result_details"],
            strict=True,
        ):
            for name, value in detail.items():
                if mine[name] is None:
                    assert value == -1
                else:
                    assert mine[name] == pytest.approx(value, abs=1e-6)


def test_the_callers_hooks_are_not_seen_and_stay(
    subject: Subject, model: HookedTransformer
):
    seen: list[str] = []
    tokens = torch.tensor([[1, 2, 3]])

    def note(kept: str) -> Any:
        return lambda value, hook: seen.append(kept)  # noqa: ARG005

    point = model.hook_dict[HOOK_NAME]
    model.add_hook(HOOK_NAME, note("caller"))
    model.add_hook(HOOK_NAME, note("permanent"), is_permanent=True)
    before = list(point.fwd_hooks)
    try:
        with upstream("core", subject, subject.load(), model, seed=0):
            model(tokens, stop_at_layer=3)
            assert seen == ["permanent"]
            model.add_hook(HOOK_NAME, note("upstream"))
        seen.clear()
        assert point.fwd_hooks == before
        model(tokens, stop_at_layer=3)
        assert seen == ["caller", "permanent"]
        before[0].hook.remove()
        seen.clear()
        model(tokens, stop_at_layer=3)
        assert seen == ["permanent"]
    finally:
        model.reset_hooks(including_permanent=True)


def test_rerun_gives_the_same_numbers_and_leaves_no_trace(
    context: RunContext, subject: Subject, record: dict[str, object]
):
    before = (
        vars(HookedTransformer)["from_pretrained_no_processing"],
        general_utils.load_and_format_sae,
        vars(ActivationsStore)["from_sae"],
        upstream_core.replace_nans_with_negative_one,
    )
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    assert EVALUATION.run(context.part([subject])) == []
    path = result_path(context.out, "core", subject.release, "good")
    assert read_result(path)["eval_result_metrics"] == record["eval_result_metrics"]
    assert read_result(path)["eval_result_details"] == record["eval_result_details"]
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert torch.is_grad_enabled()
    assert before == (
        vars(HookedTransformer)["from_pretrained_no_processing"],
        general_utils.load_and_format_sae,
        vars(ActivationsStore)["from_sae"],
        upstream_core.replace_nans_with_negative_one,
    )


def test_an_error_upstream_only_logs_is_raised_with_its_cause(
    subject: Subject, model: HookedTransformer
):
    sae = subject.load()
    weights = {name: value.clone() for name, value in sae.state_dict().items()}
    patched_loader = general_utils.load_and_format_sae
    with (
        pytest.raises(UpstreamError, match=r"core of SAE 'good' failed: KeyError: 'x'"),
        upstream("core", subject, sae, model, seed=0),
    ):
        torch.set_grad_enabled(False)
        assert model.tokenizer is not None
        model.tokenizer.padding_side = "left"
        _, copied, _ = general_utils.load_and_format_sae("any", "any", "cpu")  # type: ignore[misc]
        copied.to(torch.bfloat16)
        try:
            raise KeyError("x")
        except KeyError as error:
            logging.getLogger("sae_bench.evals.core.main").error("failed: %s", error)
    assert torch.is_grad_enabled()
    assert model.tokenizer.padding_side == "right"
    assert general_utils.load_and_format_sae is patched_loader
    assert all(torch.equal(sae.state_dict()[name], w) for name, w in weights.items())


def test_folding_keeps_the_reconstruction(subject: Subject, activations: torch.Tensor):
    sae = subject.load()
    folded = folded_copy(sae)
    x = activations[:64]
    torch.testing.assert_close(folded(x), sae(x), rtol=1e-4, atol=1e-3)
    assert folded.W_dec is not sae.W_dec


@pytest.mark.parametrize("norm", ["constant_norm_rescale", "layer_norm"])
def test_a_folded_copy_leaves_no_norm_on_the_callers_sae(
    norm: str, subject: Subject, activations: torch.Tensor
):
    sae = subject.load()
    sae.cfg.normalize_activations = norm  # pyright: ignore[reportAttributeAccessIssue]
    sae._setup_activation_normalization()
    before = set(vars(sae))
    folded_copy(sae).encode(activations[:4])
    assert set(vars(sae)) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_eval_batches": 1}, "Did you mean|Known"),
        ({"eval_batch_size_prompts": 0}, "core.eval_batch_size_prompts is 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        EVALUATION.run(RunContext([], Path("unused"), options={"core": options}))
