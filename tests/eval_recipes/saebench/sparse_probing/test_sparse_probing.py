"""Sparse probing around the real upstream eval, on embedded sets."""

from __future__ import annotations

import dataclasses
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beartype.roar import BeartypeException
from jaxtyping import TypeCheckError
from pydantic import TypeAdapter
from sae_bench.evals.sparse_probing import main as upstream_main
from sae_bench.evals.sparse_probing import probe_training
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.evals.sparse_probing.eval_output import SparseProbingEvalOutput
from sae_bench.sae_bench_utils import activation_collection, general_utils
from transformer_lens import HookedTransformer

from eval_recipes.results.files import load_results, read_result, result_path
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.sparse_probing import cache as sparse_probing_cache
from eval_recipes.saebench.sparse_probing.paired import (
    Scored,
    draw,
    macro_accuracy,
    score,
)
from eval_recipes.saebench.sparse_probing.score import (
    random_directions,
    random_features,
)
from eval_recipes.saebench.upstream import folded_copy
from eval_recipes.statistics.interval import NO_VARIATION
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae
from tests.oracles import sparse_probing_oracle as oracle

EVALUATION = Named("sparse_probing")

pytestmark = pytest.mark.slow

NAMES = ("embedded/sst2", "embedded/country")
OPTIONS = {
    "dataset_names": NAMES,
    "probe_train_set_size": 40,
    "probe_test_set_size": 20,
    "context_length": 16,
    "k_values": (1, 5),
}


def make_context(
    subjects: list[Subject],
    folder: Path,
    model: HookedTransformer | None = None,
    **options: Any,
) -> RunContext:
    context = RunContext(
        subjects,
        folder / "out",
        data="embedded",
        artifacts=folder / "artifacts",
        options={"sparse_probing": {**OPTIONS, **options}},
    )
    if model is not None:
        name = "smollm2-135m-instruct"
        context.models.hold(model, name, dtype="float32", device="cpu")
    return context


@pytest.fixture(scope="module")
def subjects(
    tmp_path_factory: pytest.TempPathFactory,
    model_name: str,
    activations: torch.Tensor,
) -> list[Subject]:
    mean = activations.mean(0)
    broken = tiny_sae(model_name, HOOK_NAME, mean, 1)
    broken.W_enc.data[0, 5] = torch.nan
    saes = {
        "broken": broken,
        "other": tiny_sae(model_name, HOOK_NAME, mean, 2),
        "good": tiny_sae(model_name, HOOK_NAME, mean, 0),
    }
    return save_release(tmp_path_factory.mktemp("tiny-probing"), saes)


@pytest.fixture(scope="module")
def context(
    tmp_path_factory: pytest.TempPathFactory,
    subjects: list[Subject],
    model: HookedTransformer,
) -> RunContext:
    return make_context(subjects, tmp_path_factory.mktemp("run"), model)


@pytest.fixture(scope="module")
def failures(context: RunContext) -> list[Failure]:
    return EVALUATION.run(context)


@pytest.fixture(scope="module")
def record(
    context: RunContext, subjects: list[Subject], failures: list[Failure]
) -> dict[str, Any]:
    assert [failure.sae_id for failure in failures] == ["broken"]
    return read(context, subjects[2])


def read(context: RunContext, subject: Subject) -> dict[str, Any]:
    path = result_path(context.out, "sparse_probing", subject.release, subject.sae_id)
    return read_result(path)


def scores(record: dict[str, Any]) -> list[Any]:
    extra = record["eval_result_unstructured"]
    names = [f"{name}_results" for name in record["eval_config"]["dataset_names"]]
    return [
        record["eval_result_metrics"],
        record["eval_result_details"],
        {name: extra[name] for name in names},
    ]


def test_upstream_still_crashes_by_itself_and_the_repair_is_undone():
    train, test = features(0, 20), features(1, 12)
    with sparse_probing_cache.repaired():
        _, accuracies = probe_training.train_probe_on_activations(train, test, 2)
        assert all(0 < accuracy <= 1 for accuracy in accuracies.values())
    with pytest.raises((BeartypeException, TypeCheckError)) as caught:
        probe_training.train_probe_on_activations(train, test, 2)
    assert "train_sklearn_probe" in str(caught.value)


def test_a_broken_sae_fails_with_its_cause_and_leaves_no_file(
    context: RunContext, failures: list[Failure]
):
    assert [failure.sae_id for failure in failures] == ["broken"]
    assert "NaN" in failures[0].cause or "nan" in failures[0].cause
    assert len(list(context.out.rglob("*.json"))) == 2


def test_result_is_valid_and_marked_as_embedded(
    context: RunContext, record: dict[str, Any]
):
    output = TypeAdapter(SparseProbingEvalOutput).validate_python(record)
    assert output.sae_lens_id == "good"
    assert output.eval_config.dataset_names == list(NAMES)
    assert record["eval_result_unstructured"]["data"] == "embedded"
    assert record["eval_result_unstructured"]["saereg"] == {"group": "tiny", "seed": 2}
    table = load_results(context.out).query("sae_id == 'good'").set_index("metric")
    row = table.loc["corrected/sae_top_1_accuracy"]
    assert row["low"] <= row["value"] <= row["high"]
    assert row["n"] == sum(10 * n for n in (2, 5)) - sum(
        detail["n_left_out"] for detail in record["eval_result_details"]
    )
    difference = table.loc["corrected/sae_above_llm_top_5"]["value"]
    parts = table.loc[["corrected/sae_top_5_accuracy", "corrected/llm_top_5_accuracy"]]
    assert difference == pytest.approx(parts["value"].iloc[0] - parts["value"].iloc[1])
    assert table.loc["corrected/sae_top_2_accuracy"].isna()["value"]
    ours = table[table.index.str.startswith("corrected/")]
    without = ours.index[ours["value"].notna() & ours["low"].isna()]
    reasons = record["eval_result_unstructured"]["without_interval"]
    assert sorted(reasons) == sorted(without)


def test_details_carry_every_class_and_average_to_the_metric(record: dict[str, Any]):
    for reader in ("sae_all", "llm_top_1", "random_top_5"):
        sets = [
            {
                row["class_name"]: [True] * round(row["accuracy"] * row["n"])
                + [False] * round((1 - row["accuracy"]) * row["n"])
                for row in detail["classes"]
                if row["reader"] == reader
            }
            for detail in record["eval_result_details"]
        ]
        assert [len(by_class) for by_class in sets] == [2, 5]
        expected = record["eval_result_metrics"]["corrected"][f"{reader}_accuracy"]
        assert oracle.macro(sets) == pytest.approx(expected)
    assert {detail["random_l0"] for detail in record["eval_result_details"]} == {8}


def test_upstream_called_directly_on_the_same_activations_agrees(
    context: RunContext,
    subjects: list[Subject],
    model: HookedTransformer,
    record: dict[str, Any],
    tmp_path: Path,
):
    for path in context.artifacts.rglob("*_activations.pt"):
        shutil.copy(path, tmp_path / path.name)
    config = SparseProbingEvalConfig(**record["eval_config"])
    sae = folded_copy(subjects[2].load())
    general_utils._standardize_sae_cfg(sae.cfg)
    with sparse_probing_cache.repaired():
        averages, by_class = upstream_main.run_eval_single_sae(
            config, sae, model, "cpu", str(tmp_path)
        )
    for category in ("sae", "llm"):
        metrics = record["eval_result_metrics"][category]
        given = {name: value for name, value in metrics.items() if value is not None}
        assert len(given) == 3
        for name, value in given.items():
            assert averages[name] == pytest.approx(value, abs=1e-6)
    for name, figures in by_class.items():
        assert record["eval_result_unstructured"][name] == figures


def test_the_first_set_of_a_cold_upstream_run_has_the_same_model_scores(
    model: HookedTransformer,
    subjects: list[Subject],
    record: dict[str, Any],
    tmp_path: Path,
):
    config = SparseProbingEvalConfig(**record["eval_config"])
    config.dataset_names = [NAMES[0]]
    sae = folded_copy(subjects[2].load())
    general_utils._standardize_sae_cfg(sae.cfg)
    with sparse_probing_cache.repaired(), sparse_probing_cache.data_source("embedded"):
        averages, _ = upstream_main.run_eval_single_sae(
            config, sae, model, "cpu", str(tmp_path)
        )
    detail = record["eval_result_details"][0]
    for name in ("llm_test_accuracy", "llm_top_1_test_accuracy"):
        assert averages[name] == pytest.approx(detail[name], abs=1e-6)


@pytest.mark.slow
def test_cold_warm_alone_and_in_another_order_are_the_same(
    context: RunContext,
    subjects: list[Subject],
    model: HookedTransformer,
    record: dict[str, Any],
    tmp_path: Path,
):
    _, other, good = subjects
    cold = make_context([good, other], tmp_path, model)
    assert EVALUATION.run(cold) == []
    assert scores(read(cold, good)) == scores(record)
    assert scores(read(cold, other)) == scores(read(context, other))
    alone = dataclasses.replace(cold, subjects=[good], out=tmp_path / "alone")
    assert EVALUATION.run(alone) == []
    assert scores(read(alone, good)) == scores(record)


def test_another_sae_of_the_same_name_gets_its_own_result(
    context: RunContext,
    model_name: str,
    model: HookedTransformer,
    activations: torch.Tensor,
    record: dict[str, Any],
    tmp_path: Path,
):
    twin = tiny_sae(model_name, HOOK_NAME, activations.mean(0), 5)
    folder = tmp_path / "tiny-twin"
    folder.mkdir()
    subject = dataclasses.replace(
        save_release(folder, {"good": twin})[0], group="tiny", seed=2
    )
    rerun = make_context([subject], tmp_path, model)
    rerun.artifacts = context.artifacts
    assert EVALUATION.run(rerun) == []
    metrics = read(rerun, subject)["eval_result_metrics"]
    before = record["eval_result_metrics"]
    assert metrics["llm"] == before["llm"]
    assert metrics["sae"] != before["sae"]
    for name, value in before["corrected"].items():
        if name.startswith(("llm", "random")):
            assert metrics["corrected"][name] == value


def test_state_is_as_before_also_after_a_failure(
    context: RunContext, subjects: list[Subject], record: dict[str, Any]
):
    assert record
    tokenizer: Any = context.models.get(
        "smollm2-135m-instruct", dtype="float32", device="cpu"
    ).tokenizer
    names = (
        (upstream_main, "run_eval_single_dataset"),
        (activation_collection, "get_sae_meaned_activations"),
        (probe_training, "train_sklearn_probe"),
        (torch, "load"),
    )

    def state() -> list[Any]:
        functions = [getattr(module, name) for module, name in names]
        return [*functions, torch.is_grad_enabled(), tokenizer.padding_side, Path.cwd()]

    def drawn() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(1).item()

    before = state()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = drawn()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    again = dataclasses.replace(context, subjects=[subjects[0], subjects[2]])
    assert len(EVALUATION.run(again)) == 1
    assert drawn() == expected
    assert state() == before
    assert scores(read(again, subjects[2])) == scores(record)


# The corrected figures


def features(seed: int, n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(n, 6, generator=generator) + shift
        for name, shift in (("a", 0.0), ("b", 0.6), ("c", -0.4))
    }


def small_draws(left_out: int = 0) -> Any:
    masks = {name: np.arange(12) < left_out for name in "abc"}
    sizes = {name: (20, 12) for name in "abc"}
    return draw(sizes, masks, dataset_name="embedded/x", seed=0)


@pytest.mark.parametrize("k", [1, 3])
def test_paired_probes_agree_with_the_oracle(k: int):
    train, test = features(0, 20), features(1, 12)
    draws = small_draws()
    with sparse_probing_cache.repaired():
        correct = score(train, test, draws, k, seed=0)
    for name, (seen, asked) in draws.items():
        expected = oracle.top_k_correct(
            train,
            test,
            seen.texts.tolist(),
            seen.labels.tolist(),
            asked.texts.tolist(),
            asked.labels.tolist(),
            k,
        )
        assert correct[name].tolist() == expected
        assert 0 < sum(expected) < len(expected)


def test_the_order_of_the_features_does_not_decide():
    """Nearly parallel features, on which a solver that stops early depends on the order."""
    generator = torch.Generator().manual_seed(0)
    sizes = {name: (200, 400) for name in "ab"}
    masks = {name: np.zeros(400, dtype=bool) for name in "ab"}
    draws = draw(sizes, masks, dataset_name="embedded/x", seed=0)

    def texts(n: int) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, shift in (("a", 0.0), ("b", 0.4)):
            base = torch.randn(n, 1, generator=generator) + shift
            scale = torch.logspace(-1, 2, 20)
            found[name] = scale * (base + 0.1 * torch.randn(n, 20, generator=generator))
        return found

    train, test = texts(200), texts(400)
    expected = score(train, test, draws, 20, seed=0)
    for _ in range(5):
        order = torch.randperm(20, generator=generator)
        shuffled = [
            {name: rows[:, order] for name, rows in side.items()}
            for side in (train, test)
        ]
        found = score(*shuffled, draws, 20, seed=0)
        for name, right in expected.items():
            assert np.array_equal(found[name], right)


def test_draws_are_balanced_and_leave_out_what_they_must():
    draws = small_draws(left_out=4)
    for index, name in enumerate("abc"):
        for side, n in zip(draws[name], (20, 12), strict=True):
            own = side.texts[side.labels == 1]
            others = side.texts[side.labels == 0]
            assert set(own // n) == {index}
            assert len(own) == len(others) == (20 if n == 20 else 8)
            assert np.bincount(others // n, minlength=3).max() == len(own) / 2
            assert len(set(side.texts)) == len(side.texts)
        assert not set(draws[name].test.texts % 12) & set(range(4))


def test_a_probe_on_all_features_does_not_learn_from_the_test_labels():
    train, test = features(0, 20), features(1, 12)
    draws = small_draws()
    flipped = {
        name: d._replace(test=d.test._replace(labels=1 - d.test.labels))
        for name, d in draws.items()
    }
    torch.manual_seed(1)
    before = torch.get_rng_state()
    right = score(train, test, draws, None, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    wrong = score(train, test, flipped, None, seed=0)
    assert all((right[name] != wrong[name]).all() for name in right)
    # Upstream chooses the epoch by the test texts, so there both can do well.
    assert np.mean([r.mean() for r in right.values()]) > 0.6


def test_interval_covers_what_redrawing_texts_gives():
    draws = small_draws()
    generator = np.random.default_rng(0)
    correct = {name: generator.random(24) < 0.7 for name in "abc"}
    scored = Scored(draws, 36, {"sae_top_1": correct, "llm_top_1": correct})
    interval = macro_accuracy([scored, scored], "sae_top_1", seed=0)
    as_lists = {name: right.tolist() for name, right in correct.items()}
    assert interval.value == pytest.approx(oracle.macro([as_lists, as_lists]))
    assert interval.n == 72
    assert interval.low is not None
    assert interval.high is not None
    # Each text counts in two probes on average: near the error of 72 independent texts.
    assert 0.1 < interval.high - interval.low < 0.35


def test_texts_answered_alike_have_a_reason_instead_of_an_interval_of_no_width():
    draws = small_draws()
    right = {name: np.random.default_rng(0).random(24) < 0.7 for name in "abc"}
    every = {name: np.ones(24, dtype=bool) for name in "abc"}
    correct = {"sae_top_1": right, "llm_top_1": right, "random_top_1": every}
    scored = Scored(draws, 36, correct)
    nothing = macro_accuracy([scored], "sae_top_1", "llm_top_1", seed=0)
    assert nothing == (0, None, None, 36, NO_VARIATION)
    perfect = macro_accuracy([scored], "random_top_1", seed=0)
    assert perfect == (1, None, None, 36, NO_VARIATION)


def test_random_features_agree_with_the_oracle():
    x = torch.randn(3, 5, 4)
    x[1, 3:] = 0
    directions = random_directions(4, 9, seed=1)
    assert torch.allclose(directions.norm(dim=0), torch.ones(9))
    centre = torch.tensor([0.1, -0.2, 0.3, 0.0])
    given = random_features({"a": x}, directions, centre, 3, batch_size=2)["a"]
    expected = [oracle.random_text_features(t, directions, centre, 3) for t in x]
    torch.testing.assert_close(given, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_texts_that_the_model_reads_alike_are_found():
    train = {"a": torch.tensor([[1, 2], [3, 4]]), "b": torch.tensor([[5, 6]])}
    test = {"a": torch.tensor([[5, 6], [1, 3]]), "b": torch.tensor([[3, 4]])}
    found = sparse_probing_cache.seen_in_training(train, test)
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "a": [True, False],
        "b": [True],
    }


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": ()}, "Unknown sparse_probing option"),
        ({"dataset_names": ("embedded/sst",)}, "Did you mean 'embedded/sst2'"),
        ({"dataset_names": "embedded/sst2"}, "expected a list"),
        ({"k_values": (3,)}, "expected 1, 2, 5"),
        ({"k_values": ()}, "1 or more entries"),
        ({"probe_test_set_size": 0}, "at least 10"),
        ({"llm_batch_size": True}, "expected a whole number"),
        ({"probe_train_set_size": 1500, "dataset_names": ["embedded/country"]}, "1518"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        EVALUATION.check(make_context([], tmp_path, **options))


def test_saes_it_cannot_serve_are_refused(
    model_name: str, activations: torch.Tensor, tmp_path: Path, subjects: list[Subject]
):
    context = make_context(subjects, tmp_path)
    EVALUATION.check(context)
    context.memory_gib = 0.001
    with pytest.raises(InputError, match=r"GiB of activations .* 'broken'"):
        EVALUATION.check(context)
    by_head = tiny_sae(model_name, "blocks.2.attn.hook_z", activations.mean(0), 0)
    folder = tmp_path / "tiny-heads"
    folder.mkdir()
    with pytest.raises(InputError, match="'heads' reads 'blocks.2.attn.hook_z'"):
        EVALUATION.check(
            make_context(save_release(folder, {"heads": by_head}), tmp_path)
        )
    narrow = tiny_sae(model_name, HOOK_NAME, activations.mean(0), 0)
    narrow.cfg.d_sae = 4
    folder = tmp_path / "tiny-narrow"
    folder.mkdir()
    with pytest.raises(InputError, match="has 4 latents, but sparse_probing needs 5"):
        EVALUATION.check(
            make_context(save_release(folder, {"narrow": narrow}), tmp_path)
        )
    assert D_SAE > 5


@pytest.mark.usefixtures("offline")
def test_hub_out_of_reach_is_named_at_once():
    context = RunContext([], Path("unused"))
    options = EVALUATION.options(context)
    assert options.dataset_names == tuple(SparseProbingEvalConfig().dataset_names)
    assert (options.probe_train_set_size, options.probe_test_set_size) == (4000, 1000)
    with pytest.raises(InputError, match=r"LabHC/bias_in_bios'.*embedded"):
        EVALUATION.check(context)
