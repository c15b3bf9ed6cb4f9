"""The steering evaluation from SAE to result file, on the embedded model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from eval_recipes.chat import KEY_VARIABLE, Budget
from eval_recipes.results.files import keyed, load_results, read_result, result_path
from eval_recipes.results.sidecar import damaged_table
from eval_recipes.running.context import ModelCache, RunContext
from eval_recipes.running.plan import result_keys, subject_hashes, todo
from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.generate.prompts import PUBLISHED_PROMPTS
from eval_recipes.steering.judges.protocol import calibrate
from eval_recipes.steering.plots import plot_steering
from eval_recipes.steering.stats.compare import (
    difference,
    group_rates,
    read_groups,
    with_common_thresholds,
)
from eval_recipes.steering.stats.figures import rates
from eval_recipes.steering.texts import (
    COLUMNS,
    TEXTS,
    read_texts,
    results_of,
)
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.chat.openai_server import KEY, serving
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import save_release, tiny_sae

EVALUATION = Named("steering")
run = EVALUATION.run

SCHEMA = json.loads(
    files("eval_recipes.steering")
    .joinpath("eval_output_schema_steering.json")
    .read_text()
)
pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {
    "n_latents": 6,
    "explainer_tokens": 4096,
    "new_tokens": 10,
    "calibration_pairs": 12,
    "amounts": [40.0, 5.0],
    "false_positive_rate": 0.1,
    "judges": ["log_probability"],
    "batch_size": 64,
}

# Two latents, one prompt, few texts: for what does not depend on how many there are.
FEW: dict[str, Any] = {
    "n_latents": 2,
    "prompts": list(PUBLISHED_PROMPTS[:1]),
    "new_tokens": 3,
    "calibration_pairs": 2,
    "false_positive_rate": 0.5,
    "amounts": [40.0],
}

Make = Callable[..., RunContext]


@pytest.fixture(scope="session")
def model_name(cut_model_folder: Path) -> str:
    """Four layers write as many texts as thirty, and are hooked in the same way."""
    return str(cut_model_folder)


@pytest.fixture(scope="module")
def make(
    tmp_path_factory: pytest.TempPathFactory,
    model: HookedTransformer,
    model_name: str,
    activations: torch.Tensor,
) -> Make:
    """Two seeds of a small SAE, the model in memory and one folder of artefacts."""
    folder = tmp_path_factory.mktemp("steering")
    mean = activations.mean(0)
    saes = {f"s{i}": tiny_sae(model_name, HOOK_NAME, mean, i) for i in range(2)}
    subjects = save_release(folder / "steer-release", saes)
    models = ModelCache()
    models.hold(model, model_name, dtype="float32", device="cpu")

    def context(out: Path, n: int = 1, **options: Any) -> RunContext:
        return RunContext(
            subjects=subjects[:n],
            out=out,
            artifacts=folder / "artifacts",
            options={"steering": {**OPTIONS, **options}},
            models=models,
        )

    return context


@pytest.fixture(scope="module")
def done(make: Make, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    """Both SAEs evaluated, with the keys that a later run compares."""
    context = make(tmp_path_factory.mktemp("steered"), 2)
    with keyed(result_keys(EVALUATION.new(), context, subject_hashes(context))):
        assert run(context) == []
    return context


def result(context: RunContext, sae_id: str = "s0") -> Path:
    name = f"{context.subjects[0].release}_{sae_id}_eval_results.json"
    return context.out / "steering" / name


def test_a_result_is_in_saebenchs_format(done: RunContext, model_name: str) -> None:
    record = json.loads(result(done).read_text())
    jsonschema.validate(record, SCHEMA)
    metrics = record["eval_result_metrics"]
    judged = metrics["log_probability"]
    assert judged["pairs"] + judged["pairs_without_verdict"] == 18
    assert judged["success_n"] <= 6 and 0 <= judged["success"] <= 1
    assert judged["success_fluent"] <= judged["success"]
    assert judged["threshold"] is not None
    assert metrics["embedding"]["success"] is metrics["chat"]["slope"] is None
    assert metrics["latents"]["candidates"] == 6
    assert (
        metrics["latents"]["steered"] + metrics["latents"]["without_explanation"] == 6
    )
    assert metrics["strength"]["strength"] == 40.0
    assert metrics["strength"]["ratio"] == pytest.approx(
        40 / metrics["strength"]["norm"]
    )
    points = record["eval_result_details"]
    assert [(p["judge"], p["amount"]) for p in points] == [
        ("log_probability", 40.0),
        ("log_probability", 5.0),
    ]
    assert points[0]["success"] == judged["success"]
    # stronger steering costs more
    assert points[0]["loss"] > points[1]["loss"]
    extra = record["eval_result_unstructured"]
    assert extra["near_ties"]["of"] == 18 * 5
    threshold = extra["judges"]["log_probability"]["threshold"]
    # both orders of 12 pairs, 2 of each latent
    assert (threshold["rate"], threshold["n"], threshold["n_clusters"]) == (0.1, 24, 6)
    assert judged["pairs"] == judged["pairs_distinct"]
    assert judged["random_pairs"] + judged["random_pairs_without_verdict"] == 18
    assert (extra["model"], extra["dtype"]) == (model_name, "float32")
    assert (
        extra["explainer"] == "tokens" and extra["comparable_with_published"] is False
    )
    assert {"model", "judge", "n_latents"} <= set(extra["unlike_published"])
    assert "temperature" not in extra["unlike_published"]
    frame = load_results(done.out)
    assert "log_probability/success" in set(frame["metric"])


def test_texts_stand_beside_the_result(done: RunContext) -> None:
    texts = read_texts(result(done))
    assert list(texts.columns[: len(COLUMNS)]) == list(COLUMNS)
    counts = texts.groupby("arm").size().to_dict()
    # both orders of 12 calibration pairs
    assert counts == {"steered": 36, "random": 36, "unsteered": 18, "calibration": 24}
    learned = texts.loc[texts["arm"] == "calibration"]
    assert learned["perplexity"].isna().all()
    texts = texts.loc[texts["arm"] != "calibration"]
    assert set(texts["prompt"]) == set(PUBLISHED_PROMPTS)
    assert texts["explanation"].str.startswith("the tokens ").all()
    # one original for steered, random and unsteered text of a latent and prompt, its own:
    # short texts of two latents may be equal by chance, but not after every prompt
    originals = texts.groupby(["latent", "prompt"])["original"]
    assert (originals.nunique() == 1).all() and len(originals) == 18
    of_latent = originals.first().unstack("prompt")
    assert len(of_latent) == 6
    for (_, one), (_, other) in combinations(of_latent.iterrows(), 2):
        assert (one == other).sum() <= 1
    unsteered = texts.loc[texts["arm"] == "unsteered"]
    assert unsteered["strength"].isna().all()
    assert (unsteered["text"] != unsteered["original"]).mean() > 0.8
    # learned from 12 other pairs at .1: that 8 or more of 18 succeed has a chance of 1e-4 even
    # if the learned threshold lets .15 pass
    assert unsteered["log_probability_success"].astype(float).sum() < 8
    found = rates(texts, "log_probability", 40.0, max_ratio=2.0, seed=0)
    record = read_result(result(done))["eval_result_metrics"]["log_probability"]
    own = calibrate(learned["log_probability_score"].dropna().tolist(), 0.1)
    assert own.value == record["threshold"]
    assert isinstance(found.success, Interval)
    assert record["success"] == found.success.value
    assert record["success_ci_low"] == found.success.low
    TEXTS.path(result(done)).rename(TEXTS.path(result(done)).with_suffix(".moved"))
    with pytest.raises(InputError, match="cannot be read"):
        read_texts(result(done))
    TEXTS.path(result(done)).with_suffix(".moved").rename(TEXTS.path(result(done)))


def test_the_same_run_gives_the_same_result(
    done: RunContext, make: Make, tmp_path: Path
) -> None:
    kept = sorted((done.artifacts / "steering_texts").rglob("*.parquet"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    again = make(tmp_path)
    assert run(again) == []
    first, second = (read_result(result(context)) for context in (done, again))
    assert first["eval_result_metrics"] == second["eval_result_metrics"]
    assert first["eval_result_details"] == second["eval_result_details"]
    # no text was written again
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert sorted((done.artifacts / "steering_texts").rglob("*.parquet")) == kept
    # damaged ones are; those of the other SAE and of other settings stay as they are
    few = make(tmp_path / "few", **FEW)
    assert run(few) == []
    kept = sorted((done.artifacts / "steering_texts").rglob("*.parquet"))
    for path in kept:
        path.write_bytes(b"cut short")
    assert run(replace(few, out=tmp_path / "more")) == []
    folders = {path.parent for path in kept if path.stat().st_size > 1000}
    # steered ones, and those with nothing added
    keys = [json.loads((folder / "key.json").read_text()) for folder in folders]
    assert len(keys) == 2 and keys[0]["sae"] == keys[1]["sae"]
    assert ["strengths" in key for key in keys].count(True) == 1
    assert all(path.stat().st_size > 1000 for path in kept if path.parent in folders)


def test_strength_zero_changes_no_text(make: Make, tmp_path: Path) -> None:
    context = make(tmp_path, amounts=[0.0], false_positive_rate=0.2)
    assert run(context) == []
    texts = read_texts(result(context))
    steered = texts.loc[texts["arm"].isin(["steered", "random"])]
    assert (steered["text"] == steered["original"]).all()
    assert not steered["log_probability_success"].astype(bool).any()
    metrics = read_result(result(context))["eval_result_metrics"]
    judged = metrics["log_probability"]
    assert judged["success"] == judged["success_ci_low"] == 0.0
    # no success in 6 latents: 3.69 / 6 of them may still have some
    assert judged["success_ci_high"] == pytest.approx(np.log(40) / judged["success_n"])
    assert metrics["fluency"]["loss"] == pytest.approx(0.0, abs=1e-6)
    reasons = read_result(result(context))["eval_result_unstructured"][
        "why_there_is_no_figure"
    ]
    assert "no trial succeeded" in reasons["log_probability"]["slope"]


def test_plain_transformers_write_the_same_texts(make: Make, tmp_path: Path) -> None:
    small = {**FEW, "prompts": list(PUBLISHED_PROMPTS[:2])}
    context = make(tmp_path, **small)
    assert run(context) == []
    other = make(tmp_path / "hooked", **small, backend="hooked")
    assert run(other) == []
    plain, hooked = (results_of(read_texts(result(one))) for one in (context, other))
    sure: Any = (plain["near_ties"] == 0) & (hooked["near_ties"] == 0)
    # which texts have near ties is chance, and differs between processors
    assert set(plain.loc[sure, "arm"]) == {"steered", "random", "unsteered"}
    assert plain.loc[sure, "text"].tolist() == hooked.loc[sure, "text"].tolist()
    assert np.allclose(plain["perplexity"][sure], hooked["perplexity"][sure], rtol=1e-3)
    kinds = [
        read_result(result(one))["eval_result_unstructured"]["backend"]
        for one in (context, other)
    ]
    assert kinds == ["plain", "hooked"]


def test_greedy_texts_have_sampled_controls(make: Make, tmp_path: Path) -> None:
    context = make(
        tmp_path, greedy=True, amounts=[40.0], n_latents=3, calibration_pairs=6
    )
    assert run(context) == []
    texts = read_texts(result(context))
    steered = texts.loc[texts["amount"].notna()]
    assert steered.groupby("prompt")["original"].nunique().tolist() == [1, 1, 1]
    unsteered = texts.loc[texts["arm"] == "unsteered"]
    assert (unsteered["text"] != unsteered["original"]).mean() > 0.8


def test_strength_in_median_norms(make: Make, tmp_path: Path) -> None:
    few = {**FEW, "amounts": [0.25]}
    context = make(tmp_path, **few, strength_mode="norm_ratio")
    assert run(context) == []
    strength = read_result(result(context))["eval_result_metrics"]["strength"]
    assert strength["ratio"] == pytest.approx(0.25)
    assert strength["strength"] == pytest.approx(0.25 * strength["norm"])
    assert strength["norm_ci_low"] < strength["norm"] < strength["norm_ci_high"]


def test_a_latent_without_strength_costs_no_other_latent(
    make: Make, model_name: str, activations: torch.Tensor, tmp_path: Path
) -> None:
    sae = tiny_sae(model_name, HOOK_NAME, activations.mean(0), 0)
    # latent 1 reads against the direction that it writes
    for latent, sign in ((0, 1), (1, -1)):
        sae.W_enc.data[:, latent] = sign * sae.W_dec.data[latent]
    details = [
        {"latent": j, "explanation": '"law"', "score": None, "checked_score": 0.5}
        for j in (0, 1)
    ]
    subjects = save_release(tmp_path / "opposed-release", {"s0": sae})
    given = result_path(tmp_path / "given", "autointerp", subjects[0].release, "s0")
    given.parent.mkdir(parents=True)
    record = {
        "eval_type_id": "autointerp",
        "eval_config": {"explainer": "tokens"},
        "eval_result_metrics": {},
        "eval_result_details": details,
    }
    given.write_text(json.dumps(record))
    context = replace(
        make(
            tmp_path / "out",
            **{**FEW, "amounts": [5.0]},
            latents=[0, 1],
            strength_mode="target_preact",
            explanations=str(tmp_path / "given"),
        ),
        subjects=subjects,
    )
    assert run(context) == []
    path = result_path(context.out, "steering", subjects[0].release, "s0")
    found = read_result(path)
    latents = found["eval_result_metrics"]["latents"]
    assert (latents["without_strength"], latents["steered"]) == (1, 1)
    extra = found["eval_result_unstructured"]
    assert extra["latents_without_strength"] == {"5.0": [1]}
    texts = read_texts(path)
    assert set(texts.loc[texts["arm"] == "steered", "latent"]) == {0}


def test_explanations_of_neuronpedia_are_the_concepts(
    make: Make, tmp_path: Path
) -> None:
    place = {"modelId": "m", "layer": "2-set"}
    lines = [
        json.dumps({**place, "index": f"{j}", "description": text})
        for j, text in ((4, "the sea"), (9, "the law"))
    ]
    file = tmp_path / "explanations.jsonl"
    file.write_text("\n".join(lines))
    context = make(tmp_path / "out", **FEW, select="explained", explanations=str(file))
    before = EVALUATION.key(context)
    assert run(context) == []
    found = read_result(result(context))["eval_result_unstructured"]
    assert found["explanations_from"] == "file"
    assert found["explainer"] == "Neuronpedia"
    texts = read_texts(result(context))
    steered = texts.loc[texts["arm"] == "steered"]
    told = dict(zip(steered["latent"], steered["explanation"]))
    assert told == {4: "the sea", 9: "the law"}
    file.write_text(lines[0])
    assert EVALUATION.key(context) != before
    two = make(tmp_path / "two", 2, explanations=str(file))
    with pytest.raises(InputError, match="'m/2-set' alone.*--sae-id"):
        EVALUATION.check(two)
    file.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        EVALUATION.check(context)


def test_latents_that_separate_two_files_are_steered_with(
    make: Make, tmp_path: Path
) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    sea, law = ("ship", "wave", "sail", "tide"), ("judge", "court", "law", "crime")
    a.write_text(
        "\n".join(f"The {x} and the {y} of the sea." for x in sea for y in sea)
    )
    b.write_text(
        "\n".join(f"The {x} and the {y} of the city." for x in law for y in law)
    )
    context = make(
        tmp_path,
        select="contrast",
        contrast=[str(a), str(b)],
        n_latents=2,
        samples_per_prompt=3,
        amounts=[40.0],
    )
    assert run(context) == []
    record = read_result(result(context))
    found = record["eval_result_unstructured"]["contrast"]
    contrast = record["eval_result_metrics"]["contrast"]
    assert (found["texts_a"], found["texts_b"]) == (16, 16)
    assert contrast["probe_accuracy"] > 0.9 and contrast["probe_accuracy_n"] == 16
    assert contrast["auroc"] == found["latents"][0]["measured"]["value"] > 0.6
    assert contrast["change_n"] == 9
    assert contrast["change"] == found["latents"][0]["steered"][0]["change"]["value"]
    assert contrast["change_random"] is not None
    # all that were ranked are reported and steered with, explained or not
    texts = read_texts(result(context))
    assert [one["latent"] for one in found["latents"]] == list(
        dict.fromkeys(texts["latent"])
    )
    assert all(one["steered"] and one["random"] for one in found["latents"])
    lost = texts.loc[texts["explanation"].isna()]
    missing = record["eval_result_unstructured"]["latents_without_explanation"]
    assert set(lost["latent"]) == set(missing)
    assert lost["log_probability_success"].isna().all()


def test_a_resumed_run_keeps_what_is_current(done: RunContext, make: Make) -> None:
    hashes = subject_hashes(done)
    keys = result_keys(EVALUATION.new(), done, hashes)
    assert todo(EVALUATION.new(), done, keys).subjects == []
    changed = make(done.out, 2, amounts=[40.0])
    left = todo(
        EVALUATION.new(), changed, result_keys(EVALUATION.new(), changed, hashes)
    )
    assert len(left.subjects) == 2
    paced = make(done.out, 2, judge_concurrency=3, judge_model="other")
    assert EVALUATION.key(paced) == EVALUATION.key(done)
    limited = make(done.out, 2, judge_max_calls=5, judge_max_tokens=900)
    limited.judge_budget = Budget(5, 900)
    assert result_keys(EVALUATION.new(), limited, hashes) == keys


def test_the_key_holds_what_is_read_and_not_where_it_lies(
    done: RunContext, make: Make, tmp_path: Path
) -> None:
    explained: list[Path] = []
    for name in ("one", "two"):
        for number in range(2):
            folder = tmp_path / name / "autointerp"
            folder.mkdir(parents=True, exist_ok=True)
            record = {
                "eval_type_id": "autointerp",
                "eval_config": {"explainer": "tokens"},
                "eval_result_metrics": {},
                "eval_id": name,
                "eval_result_details": [
                    {
                        "latent": 3,
                        "explanation": f"sea {number}",
                        "score": None,
                        "checked_score": 0.7,
                    }
                ],
            }
            path = folder / result(done, f"s{number}").name
            path.write_text(json.dumps(record))
            explained.append(path)
    first, second = (
        make(done.out, 2, explanations=str(tmp_path / name)) for name in ("one", "two")
    )
    assert EVALUATION.key(first) == EVALUATION.key(second) != EVALUATION.key(done)
    alone = [replace(second, subjects=second.subjects[i : i + 1]) for i in range(2)]
    before = [EVALUATION.key(context) for context in alone]
    explained[3].write_text(explained[3].read_text().replace("sea 1", "law"))
    after = [EVALUATION.key(context) for context in alone]
    assert before[0] == after[0] and before[1] != after[1]


def test_groups_are_compared_from_their_files(done: RunContext) -> None:
    groups, thresholds = with_common_thresholds(read_groups(done.out))
    assert [group.name for group in groups] == ["tiny"]
    assert thresholds["log_probability"].n == 48
    assert thresholds["log_probability"].n_clusters == 12
    found = group_rates(groups[0], "log_probability", 40.0, max_ratio=2.0, seed=0)
    assert found.rates.success is not None and found.rates.success.n > 6
    assert found.over_seeds is not None and found.over_seeds.n == 2
    same = difference(groups[0], groups[0], "log_probability", 40.0, seed=0)
    assert same.tests.difference is not None and same.tests.difference.value == 0
    assert same.tests.permutation.p_value == 1.0
    assert plot_steering(done.out)._repr_png_().startswith(b"\x89PNG")


def test_paid_replies_are_not_asked_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with serving() as server:
        server.reply = lambda messages: "4" if "the" in messages[-1]["content"] else "3"
        server.kill_after = 10
        chat = {
            "judges": ["chat"],
            "judge_model": "judge",
            "judge_base_url": server.url,
            "judge_attempts": 1,
            "judge_backoff_seconds": 0.01,
            # of several at once the server may answer one more before it is cut off
            "judge_concurrency": 1,
            "n_latents": 3,
            "amounts": [40.0],
        }
        context = make(tmp_path, **chat)
        (failure,) = run(context)
        assert "have no verdict of the judge 'chat'" in failure.cause
        assert not result(context).exists() and not TEXTS.path(result(context)).exists()
        paid = server.answered
        assert paid == 10
        server.kill_after = None
        server.chats.clear()
        assert run(context) == []
        texts = read_texts(result(context))
        asked = texts.drop_duplicates(["explanation", "prompt", "original", "text"])
        assert server.answered == len(asked)
        assert len(server.chats) == len(asked) - paid
        assert {chat["temperature"] for chat in server.chats} == {0.0}
        assert set(texts["chat_score"]) <= {3.0, 4.0}
        metrics = read_result(result(context))["eval_result_metrics"]["chat"]
        assert metrics["threshold"] is None and metrics["pairs"] == 9
        assert metrics["unsteered"] is not None and metrics["random"] is not None
        assert KEY not in result(context).read_text()


def test_a_judge_without_any_verdict_fails_the_sae(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    small: dict[str, Any] = {"n_latents": 2, "amounts": [40.0]}
    offline = make(tmp_path, **small)
    with serving() as server:
        chat = make(
            tmp_path,
            **small,
            judges=["chat"],
            judge_model="judge",
            judge_base_url=server.url,
        )
        # the model is in the server's list, so nothing was asked of it before
        server.always = "400"
        assert run(offline) == []
        earlier = result(offline).read_bytes()
        for said in ("refused by moderation", "it spent 0 of at most 16 tokens"):
            (failure,) = run(chat)
            assert "no verdict on any of 18 pairs" in failure.cause
            assert said in failure.cause and "judge_temperature" in failure.cause
            # what is there is another run's, and stays whole
            assert result(chat).read_bytes() == earlier
            assert damaged_table(result(chat), read_result(result(chat))) is None
            server.always, server.reply = None, lambda _: None
        asked = len(server.chats)
        server.reply = lambda _: "4"
        assert run(chat) == []
        # what was empty is asked again
        assert len(server.chats) > asked
        metrics = read_result(result(chat))["eval_result_metrics"]["chat"]
        assert metrics["success"] == 1.0


def test_a_chat_model_out_of_reach_leaves_the_earlier_result(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    context = make(
        tmp_path, judges=["chat"], judge_base_url="http://127.0.0.1:9/v1", n_latents=2
    )
    result(context).parent.mkdir(parents=True)
    for path in (result(context), TEXTS.path(result(context))):
        path.write_text("old")
    (failure,) = run(context)
    assert "No judge answers" in failure.cause
    for path in (result(context), TEXTS.path(result(context))):
        assert path.read_text() == "old"
