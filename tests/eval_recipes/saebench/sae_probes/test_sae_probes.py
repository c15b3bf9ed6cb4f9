"""The sae_probes recipe around the real upstream eval and its real sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sae_bench.evals.sparse_probing_sae_probes import main as upstream_main
from sae_bench.evals.sparse_probing_sae_probes.eval_output import (
    SparseProbingSaeProbesEvalOutput,
)
from transformer_lens import HookedTransformer

from eval_recipes.results.files import read_result, result_path
from eval_recipes.results.subject import Failure
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.sae_probes.data import (
    batches,
    deduplicated_split,
    last_token_activations,
    read_texts,
    rows_in_train,
    upstream_split,
)
from eval_recipes.saebench.sae_probes.measure import (
    Predictions,
    mean_scores,
    weighted_accuracy,
    weighted_auc,
)
from eval_recipes.saebench.sae_probes.options import SaeProbesOptions
from eval_recipes.saebench.upstream import upstream
from saereg_plugin.errors import InputError
from saereg_plugin.releases.opening import register_release
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import save_release, tiny_sae
from tests.oracles import sae_probes_oracle as oracle

EVALUATION = Named("sae_probes")

pytestmark = pytest.mark.slow

HOOK = "blocks.0.hook_resid_post"
# 371 distinct texts of ten tokens; 92 % of upstream's test rows are trained on.
SET = "130_temp_cat_Frequency"
OPTIONS = {"datasets": [SET], "ks": [1, 2]}


@pytest.fixture(scope="module")
def context(
    tmp_path_factory: pytest.TempPathFactory, model_name: str, model: HookedTransformer
) -> RunContext:
    folder = tmp_path_factory.mktemp("tiny-sae-probes")
    bias = torch.zeros(model.cfg.d_model)
    broken = tiny_sae(model_name, HOOK, bias, 2)
    broken.W_enc.data[0, :] = torch.nan
    saes = {
        "a": tiny_sae(model_name, HOOK, bias, 0),
        "b": tiny_sae(model_name, HOOK, bias, 1),
        "broken": broken,
    }
    context = RunContext(
        save_release(folder, saes),
        folder / "out",
        artifacts=folder / "artifacts",
        options={"sae_probes": OPTIONS},
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    return context


@pytest.fixture(scope="module")
def failures(context: RunContext) -> list[Failure]:
    assert context.models is not None
    model = context.models.get("smollm2-135m-instruct", dtype="float32", device="cpu")
    tokenizer: Any = model.tokenizer
    tokenizer.truncation_side = "right"
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    found = EVALUATION.run(context)
    assert torch.equal(torch.rand(1), expected)
    assert tokenizer.truncation_side == "right"
    assert torch.is_grad_enabled()
    return found


@pytest.fixture(scope="module")
def records(context: RunContext, failures: list[Failure]) -> dict[str, dict[str, Any]]:
    assert [failure.sae_id for failure in failures] == ["broken"]
    return {
        subject.sae_id: read_result(
            result_path(context.out, "sae_probes", subject.release, subject.sae_id)
        )
        for subject in context.subjects[:2]
    }


def metrics(record: dict[str, Any]) -> tuple[Any, Any]:
    return record["eval_result_metrics"], record["eval_result_details"]


@pytest.mark.slow
def test_a_failed_sae_is_named_and_leaves_no_file(
    context: RunContext, failures: list[Failure]
):
    (failure,) = failures
    assert "'broken'" in failure.cause
    assert "NaN" in failure.cause
    assert len(list(context.out.rglob("*.json"))) == 2


@pytest.mark.slow
def test_results_are_valid_for_upstream_and_say_what_they_are(
    records: dict[str, dict[str, Any]],
):
    record = records["a"]
    parsed = TypeAdapter(SparseProbingSaeProbesEvalOutput).validate_python(record)
    assert parsed.sae_lens_id == "a"
    assert parsed.eval_config.dataset_names == [SET]
    (detail,) = record["eval_result_details"]
    assert detail["test_rows_in_train"] > 0.8
    assert detail["n_test_texts"] == 99
    ours = record["eval_result_metrics"]["deduplicated"]
    assert ours["sae_top_1_test_accuracy_n"] == 99
    assert ours["sae_top_5_test_accuracy"] is None
    low, high = ours["llm_test_auc_ci_low"], ours["llm_test_auc_ci_high"]
    assert low < ours["llm_test_auc"] < high
    # What was trained on is told apart better than what was not.
    assert ours["llm_test_auc"] < record["eval_result_metrics"]["llm"]["llm_test_auc"]


@pytest.mark.slow
def test_each_sae_has_its_own_result(records: dict[str, dict[str, Any]]):
    a, b = (records[name]["eval_result_metrics"] for name in "ab")
    assert a["sae"] != b["sae"]
    assert a["deduplicated"] != b["deduplicated"]
    assert a["llm"] == b["llm"]


@pytest.mark.slow
def test_another_order_and_warm_caches_change_nothing(
    context: RunContext, records: dict[str, dict[str, Any]], tmp_path: Path
):
    again = replace(context, subjects=[context.subjects[1]], out=tmp_path)
    assert EVALUATION.run(again) == []
    subject = again.subjects[0]
    path = result_path(tmp_path, "sae_probes", subject.release, "b")
    assert metrics(read_result(path)) == metrics(records["b"])


@pytest.mark.slow
def test_another_sae_of_the_same_name_gets_its_own_result(
    context: RunContext,
    records: dict[str, dict[str, Any]],
    model_name: str,
    tmp_path: Path,
):
    # The same release, id and artefacts; upstream's own caches know no more than names.
    bias = torch.zeros(576)
    folder = tmp_path / context.subjects[0].release
    try:
        (subject,) = save_release(folder, {"a": tiny_sae(model_name, HOOK, bias, 1)})
        assert subject.release == context.subjects[0].release
        again = replace(context, subjects=[subject], out=tmp_path / "out")
        assert EVALUATION.run(again) == []
    finally:
        register_release(context.out.parent)
    found = read_result(result_path(again.out, "sae_probes", subject.release, "a"))
    assert metrics(found) == metrics(records["b"])
    assert metrics(found) != metrics(records["a"])


@pytest.mark.slow
def test_values_are_those_of_upstream_called_directly(
    context: RunContext,
    records: dict[str, dict[str, Any]],
    model: HookedTransformer,
    tmp_path: Path,
):
    subject = context.subjects[0]
    config = upstream_main.SparseProbingSaeProbesEvalConfig(
        model_name="smollm2-135m-instruct",
        random_seed=0,
        dataset_names=[SET],
        ks=[1, 2],
        results_path=str(tmp_path / "results"),
        # Its own cache, which it fills itself, row by row.
        model_cache_path=str(tmp_path / "activations"),
    )
    with upstream("sae_probes", subject, subject.load(), model, seed=99):
        selected: Any = [(subject.release, subject.sae_id)]
        upstream_main.run_eval(config, selected, "cpu", str(tmp_path / "out"))
    (path,) = (tmp_path / "out").glob("*.json")
    theirs = json.loads(path.read_text())["eval_result_metrics"]
    ours = records["a"]["eval_result_metrics"]
    for category in ("llm", "sae"):
        assert ours[category] == pytest.approx(theirs[category], abs=1e-6)


def test_activations_are_those_of_each_text_alone(model: HookedTransformer):
    texts = ["a longer text about the sea", "short", "short", "of middling length"]
    found = last_token_activations(model, texts, HOOK, memory_gib=1e-6)
    for text, row in zip(texts, found, strict=True):
        tokens: Any = model.tokenizer(text, return_tensors="pt")["input_ids"]  # type: ignore[misc]
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens, names_filter=[HOOK])
        torch.testing.assert_close(row, cache[HOOK][0, -1], rtol=1e-4, atol=1e-4)


def test_batches_keep_to_the_limit():
    lengths = [1, 2, 3, 50, 60]
    found = list(batches(lengths, lambda n: n * n, 30))
    assert found == [slice(0, 3), slice(3, 4), slice(4, 5)]
    assert list(batches([1] * 40, lambda n: n, 1e9)) == [slice(0, 32), slice(32, 40)]


def test_splits_share_no_text_and_the_overlap_is_counted():
    data = read_texts(SET)
    split = deduplicated_split(data.texts, data.labels, seed=3)
    rows = [*split.train, *split.test]
    assert len({data.texts[row] for row in rows}) == len(rows)
    assert abs(2 * data.labels[rows].sum() - len(rows)) <= 1
    by_row = upstream_split(data.labels, seed=3)
    assert rows_in_train(data.texts, by_row) == oracle.rows_also_in_train(
        data.texts, by_row.train.tolist(), by_row.test.tolist()
    )


def test_scores_agree_with_counting_pairs():
    generator = np.random.default_rng(0)
    sets = {}
    for name, n in (("x", 60), ("y", 90)):
        labels = generator.random(n) < 0.5
        scores = np.round(labels + generator.normal(size=n), 1)
        sets[name] = Predictions(labels, scores > 0.5, scores)
    weights = generator.integers(0, 4, size=(3, 60)).astype(float)
    x = sets["x"]
    for row, auc, accuracy in zip(
        weights.astype(int),
        weighted_auc(x, weights),
        weighted_accuracy(x, weights),
        strict=True,
    ):
        labels, scores, predicted = (
            np.repeat(v, row).tolist() for v in (x.labels, x.scores, x.predicted)
        )
        assert auc == pytest.approx(oracle.auc(labels, scores), abs=1e-12)
        assert accuracy == pytest.approx(oracle.accuracy(labels, predicted), abs=1e-12)
    estimate = mean_scores(sets, seed=0)["test_accuracy"]
    low, high = oracle.accuracy_interval(
        [(p.labels.tolist(), p.predicted.tolist()) for p in sets.values()]
    )
    width = high - low
    assert abs(estimate.low - low) < 0.1 * width
    assert abs(estimate.high - high) < 0.1 * width


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": ["x"]}, "Did you mean 'datasets'"),
        ({"datasets": ["92_glue_sst"]}, "Did you mean '92_glue_sst2'"),
        ({"datasets": []}, "expected 1 or more entries"),
        ({"ks": [1, 1]}, "each k once"),
        ({"ks": [3]}, "is 3; expected 1, 2, 5, 10, 20, 50 or 100"),
        ({"reg_type": "l3"}, "'l1' or 'l2'"),
        ({"setting": "scarcity"}, "Unknown sae_probes option 'setting'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        EVALUATION.check(
            RunContext([], Path("unused"), options={"sae_probes": options})
        )


def test_all_sets_are_named_by_all():
    context = RunContext(
        [], Path("unused"), options={"sae_probes": {"datasets": "all"}}
    )
    names = EVALUATION.options(context).datasets
    assert len(names) == 113
    assert set(SaeProbesOptions().datasets) < set(names)


@pytest.mark.parametrize(
    ("hook", "ks", "message"),
    [
        ("blocks.0.attn.hook_z", [1], "cannot serve"),
        (HOOK, [50, 100], "has 60 latents"),
    ],
)
def test_saes_it_cannot_serve_are_refused(
    tmp_path: Path, model_name: str, hook: str, ks: list[int], message: str
):
    sae = tiny_sae(model_name, HOOK, torch.zeros(576), 0)
    sae.cfg.metadata.hook_name = hook
    if hook == HOOK:
        sae.cfg.d_sae = 60
    folder = tmp_path / f"refused-{len(ks)}"
    subjects = save_release(folder, {"a": sae})
    context = RunContext(subjects, tmp_path, options={"sae_probes": {"ks": ks}})
    with pytest.raises(InputError, match=message):
        EVALUATION.check(context)
