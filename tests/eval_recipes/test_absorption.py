"""The absorption recipe around the real upstream eval and the real vocabulary."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from sae_bench.evals.absorption import common
from sae_bench.evals.absorption import main as upstream_main
from sae_bench.evals.absorption.eval_output import AbsorptionEvalOutput
from transformer_lens import HookedTransformer
from transformers import AutoTokenizer

from eval_recipes.context import Failure, RunContext
from eval_recipes.results import read_result, result_path
from eval_recipes.saebench import absorption
from eval_recipes.saebench.absorption_output import json_schema
from eval_recipes.saebench.absorption_probes import stopping_after
from eval_recipes.saebench.absorption_words import sample_words, word_tokens
from saereg_plugin.errors import InputError
from tests.eval_recipes.tiny_saes import save_release, tiny_sae
from tests.oracles import absorption_oracle as oracle

pytestmark = pytest.mark.slow

HOOK = "blocks.0.hook_resid_post"
OPTIONS = {
    "words_per_letter": 10,
    "max_k_value": 2,
    "k_sparse_probe_batch_size": 64,
    "k_sparse_probe_num_epochs": 10,
    # Two hundred words are too few for good probes.
    "min_GT_probe_f1": 0.1,
    "min_feats_for_eval": 2,
}


@pytest.fixture(scope="module")
def context(
    tmp_path_factory: pytest.TempPathFactory, model_name: str, model: HookedTransformer
) -> RunContext:
    folder = tmp_path_factory.mktemp("tiny-absorption")
    bias = torch.zeros(model.cfg.d_model)
    # The slash is a folder to upstream.
    saes = {
        f"{HOOK}/{name}": tiny_sae(model_name, HOOK, bias, n)
        for n, name in enumerate("ab")
    }
    context = RunContext(
        save_release(folder, saes),
        folder / "out",
        artifacts=folder / "artifacts",
        options={"absorption": OPTIONS},
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    return context


@pytest.fixture(scope="module")
def failures(context: RunContext) -> list[Failure]:
    before = (
        upstream_main.run_k_sparse_probing_experiment,
        upstream_main.run_feature_absortion_experiment,
        common.get_alpha_tokens,
        Path.cwd(),
    )
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    installed = Path(common.__file__).parents[2] / "artifacts"
    existed = installed.exists()
    found = absorption.run(context)
    assert torch.equal(torch.rand(1), expected)
    assert installed.exists() == existed
    assert torch.is_grad_enabled()
    assert before == (
        upstream_main.run_k_sparse_probing_experiment,
        upstream_main.run_feature_absortion_experiment,
        common.get_alpha_tokens,
        Path.cwd(),
    )
    return found


def read(context: RunContext, index: int) -> dict[str, Any]:
    subject = context.subjects[index]
    return read_result(
        result_path(context.out, "absorption", subject.release, subject.sae_id)
    )


@pytest.fixture(scope="module")
def records(context: RunContext, failures: list[Failure]) -> list[dict[str, Any]]:
    assert failures == []
    return [read(context, 0), read(context, 1)]


@pytest.mark.slow
def test_results_are_valid_for_upstream_and_rest_on_their_letters(
    records: list[dict[str, Any]],
):
    record = records[0]
    parsed = TypeAdapter(AbsorptionEvalOutput).validate_python(record)
    assert parsed.sae_lens_id == f"{HOOK}/a"
    details = record["eval_result_details"]
    ours = record["eval_result_metrics"]["corrected"]
    mean = record["eval_result_metrics"]["mean"]
    assert ours["letters_with_probe"] == len(details) >= 2
    assert all(d["probe_f1"] > OPTIONS["min_GT_probe_f1"] for d in details)
    assert ours["n_words"] == sum(d["num_probe_true_positives"] for d in details)
    assert ours["n_vocabulary"] == 26 * 10
    # A TopK SAE whose rows cannot be folded, all of norm 1.5.
    assert ours["max_decoder_norm_deviation"] == pytest.approx(0.5, abs=1e-5)
    splits = mean["mean_num_split_features"] - 1
    assert ours["additional_split_latents"] == pytest.approx(splits, abs=1e-9)
    for name, field, theirs in (
        (
            "absorption_fraction",
            "mean_absorption_fraction",
            "mean_absorption_fraction_score",
        ),
        ("full_absorption_rate", "full_absorption_rate", "mean_full_absorption_score"),
    ):
        value, low, high = oracle.mean_and_interval([d[field] for d in details])
        assert ours[name] == pytest.approx(value, abs=1e-9)
        assert ours[name] == pytest.approx(mean[theirs], abs=1e-6)
        slack = 0.15 * (high - low) + 1e-9
        assert ours[f"{name}_ci_low"] == pytest.approx(low, abs=slack)
        assert ours[f"{name}_ci_high"] == pytest.approx(high, abs=slack)
        assert ours[f"{name}_n"] == len(details)


@pytest.mark.slow
def test_each_sae_has_its_own_result_and_shares_the_probes(
    records: list[dict[str, Any]], context: RunContext
):
    a, b = (record["eval_result_details"] for record in records)
    assert a != b
    assert [(d["first_letter"], d["probe_f1"]) for d in a] == [
        (d["first_letter"], d["probe_f1"]) for d in b
    ]
    assert len(list(context.artifacts.rglob("probe.pth"))) == 1


@pytest.mark.slow
def test_one_sae_alone_on_warm_caches_has_the_same_result(
    context: RunContext, records: list[dict[str, Any]], tmp_path: Path
):
    again = replace(context, subjects=context.subjects[1:], out=tmp_path)
    assert absorption.run(again) == []
    record = read(again, 0)
    for part in ("eval_result_metrics", "eval_result_details"):
        assert record[part] == records[1][part]


@pytest.mark.slow
def test_too_few_letters_fail_by_name_and_leave_no_file(
    context: RunContext, records: list[dict[str, Any]], tmp_path: Path
):
    assert records
    options = {**OPTIONS, "min_GT_probe_f1": 0.99, "min_feats_for_eval": 26}
    few = replace(
        context,
        subjects=context.subjects[:1],
        out=tmp_path,
        options={"absorption": options},
    )
    (failure,) = absorption.run(few)
    assert f"{HOOK}/a" in failure.cause
    assert "of 26 letters" in failure.cause
    assert not list(tmp_path.rglob("*.json"))
    assert Path.cwd() != tmp_path


def test_words_are_in_the_same_order_in_every_process(
    model: HookedTransformer, model_folder: Path
):
    words = word_tokens(model.tokenizer)
    assert len(words) == 47_078
    other = AutoTokenizer.from_pretrained(model_folder)
    # Each hash map has an order of its own, which upstream takes over.
    assert list(other.vocab) != list(model.tokenizer.vocab)  # type: ignore[union-attr]
    assert word_tokens(other) == words
    sampled = oracle.words_by_token_id(other, step=29)
    chosen = set(sampled)
    assert [word for word in words if word in chosen] == sampled


def test_words_are_drawn_by_letter():
    words = [f"{a}{b}" for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijkl"]
    drawn = sample_words(words, words_per_letter=10, seed=0)
    assert len(drawn) == 260
    assert drawn == sorted(drawn)
    assert drawn == sample_words(words, words_per_letter=10, seed=0)
    assert drawn != sample_words(words, words_per_letter=10, seed=1)
    assert sample_words(words, words_per_letter=None, seed=0) == words
    with pytest.raises(InputError, match="start with z"):
        sample_words(words[:-3], words_per_letter=None, seed=0)


def test_prompts_seen_before_are_not_run_again(model: HookedTransformer):
    prompts = ["\n cat has the first letter:"]
    with torch.no_grad():
        whole = model.run_with_cache(prompts, names_filter=[HOOK])[1][HOOK]
    memory: dict[tuple[str, ...], torch.Tensor] = {}
    with stopping_after(model, 0, memory), torch.no_grad():
        first = model.run_with_cache(prompts, names_filter=[HOOK])[1][HOOK]
        again = model.run_with_cache(prompts, names_filter=[HOOK])[1][HOOK]
    assert again is first
    torch.testing.assert_close(first[:, -6], whole[:, -6])
    assert model.run_with_cache.__self__ is model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": 10}, "Unknown absorption option"),
        ({"words_per_letter": 9}, "at least 10"),
        ({"min_feats_for_eval": 1}, "at least 2"),
        ({"min_GT_probe_f1": 1.5}, "from 0 to 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        absorption.check(
            RunContext([], Path("unused"), options={"absorption": options})
        )


def test_other_hooks_are_refused_by_name(tmp_path: Path, model_name: str):
    sae = tiny_sae(model_name, "blocks.0.hook_mlp_out", torch.zeros(576), 0)
    subjects = save_release(tmp_path / "other-hook", {"a": sae})
    with pytest.raises(InputError, match="cannot serve hook 'blocks.0.hook_mlp_out'"):
        absorption.check(RunContext(subjects, tmp_path))


def test_shipped_schema_is_current():
    shipped = files("eval_recipes.saebench") / "eval_output_schema_absorption.json"
    assert shipped.read_text(encoding="utf-8") == json_schema()
