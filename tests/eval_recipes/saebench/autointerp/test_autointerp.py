"""The autointerp recipe around the real upstream eval, with a real server as the judge."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from pydantic import TypeAdapter
from sae_bench.evals.autointerp import main as upstream_main
from sae_bench.evals.autointerp.eval_config import AutoInterpEvalConfig
from sae_bench.evals.autointerp.eval_output import AutoInterpEvalOutput
from sae_bench.sae_bench_utils import activation_collection, general_utils
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.saes.sae import SAEMetadata
from transformer_lens import HookedTransformer

from eval_recipes.chat import KEY_VARIABLE
from eval_recipes.results.files import (
    has_embedded_data,
    load_results,
    read_result,
    result_path,
)
from eval_recipes.results.schemas import schema_text
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.autointerp import main as autointerp
from eval_recipes.saebench.autointerp.chat import (
    JudgedAutoInterp,
    parse_predictions,
)
from eval_recipes.saebench.autointerp.data import Activations
from eval_recipes.saebench.autointerp.examples import latent_seed
from eval_recipes.saebench.autointerp.figures import read_explanations
from eval_recipes.saebench.autointerp.options import (
    AutoInterpOptions,
    is_as_published,
)
from eval_recipes.saebench.autointerp.output import (
    JudgedOutput,
    TokenOutput,
)
from eval_recipes.saebench.autointerp.token_explainer import (
    Marked,
    TokenAutoInterp,
    explain,
    predict,
)
from eval_recipes.saebench.upstream import folded_copy
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.chat.openai_server import KEY, JudgeServer, good_reply, serving
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import save_release, tiny_sae
from tests.oracles import autointerp_oracle as oracle

EVALUATION = Named("autointerp")

pytestmark = pytest.mark.slow

LATENTS = (4, 9, 30, 77)
OPTIONS: dict[str, Any] = {
    "latents": LATENTS,
    "total_tokens": 4096,
    "llm_context_size": 64,
    "judge_model": "judge",
    "judge_backoff_seconds": 0.01,
    "judge_attempts": 2,
}

Make = Callable[..., RunContext]


@pytest.fixture(scope="module")
def subjects(
    tmp_path_factory: pytest.TempPathFactory, model_name: str, activations: torch.Tensor
) -> list[Subject]:
    mean = activations.mean(0)
    saes = {
        name: tiny_sae(model_name, HOOK_NAME, mean, s) for s, name in enumerate("ab")
    }
    return save_release(tmp_path_factory.mktemp("tiny-autointerp"), saes)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artefacts of the module: the model runs over the text once."""
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with serving() as judge:
        monkeypatch.setenv("OPENAI_BASE_URL", judge.url)
        yield judge


@pytest.fixture
def make(
    subjects: list[Subject],
    artifacts: Path,
    tmp_path: Path,
    model: HookedTransformer,
    model_name: str,
) -> Make:
    """Make contexts with a results folder each; replies are not shared between servers."""
    numbers = iter(range(100))

    def build(which: str = "a", **options: Any) -> RunContext:
        by_id = {subject.sae_id: subject for subject in subjects}
        context = RunContext(
            [by_id[name] for name in which],
            tmp_path / f"out{next(numbers)}",
            batch_size_prompts=8,
            artifacts=artifacts,
            options={"autointerp": {**OPTIONS, **options}},
        )
        context.models.hold(model, model_name, dtype="float32", device="cpu")
        return context

    return build


def record_of(context: RunContext, name: str = "a") -> dict[str, Any]:
    (subject,) = [s for s in context.subjects if s.sae_id == name]
    return read_result(result_path(context.out, "autointerp", subject.release, name))


def run(context: RunContext, name: str = "a") -> dict[str, Any]:
    assert EVALUATION.run(context) == []
    return record_of(context, name)


def compared(record: dict[str, Any]) -> tuple[Any, ...]:
    return record["eval_result_metrics"], record["eval_result_details"]


def without_draws(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, after which Python's generator is as before."""

    def call(*args: Any, **kwargs: Any) -> Any:
        state = random.getstate()
        try:
            return function(*args, **kwargs)
        finally:
            random.setstate(state)

    return call


def fail(context: RunContext) -> Failure:
    (failure,) = EVALUATION.run(context)
    assert not list(context.out.rglob("*_eval_results.json"))
    return failure


def test_result_is_valid_for_upstream_and_for_us(server: JudgeServer, make: Make):
    context = make()
    EVALUATION.check(context)
    record = run(context)
    jsonschema.validate(record, json.loads(schema_text(JudgedOutput)))
    assert TypeAdapter(JudgedOutput).validate_python(record)
    read = TypeAdapter(AutoInterpEvalOutput).validate_python(record)
    assert 0 <= read.eval_result_metrics.autointerp.autointerp_score <= 1
    config = record["eval_config"]
    assert config["dataset_name"] == "embedded/heldout"
    assert (config["explainer"], config["judge_base_url"]) == ("judge", server.url)
    marks = record["eval_result_unstructured"]
    assert (marks["data"], marks["text"]) == ("embedded", "embedded/heldout")
    assert marks["comparable_with_llm_scores"] is True
    assert marks["comparable_with_published"] is False
    assert has_embedded_data(context.out)
    assert "logs" not in record["eval_result_unstructured"]["4"]
    assert record["eval_result_metrics"]["checked"]["n_latents"] == len(LATENTS)
    row = load_results(context.out).query("metric == 'checked/score'").iloc[0]
    assert row.low <= row.value <= row.high
    everything = "".join(p.read_text() for p in context.out.rglob("*") if p.is_file())
    assert KEY not in everything


def counted(texts: list[str]) -> int:
    """Tokens of texts: the server's words, or a quarter of the characters if that is more."""
    words = sum(len(text.split()) for text in texts)
    return max(words, sum(-(-len(text) // 4) for text in texts))


def test_figures_equal_the_slow_oracle(server: JudgeServer, make: Make):
    record = run(make())
    metrics = record["eval_result_metrics"]["checked"]
    for name, value in oracle.scores(record["eval_result_details"]).items():
        assert metrics[name] == pytest.approx(value, abs=1e-12), name
    asked = {
        len(body["messages"][1]["content"]): body["messages"][1]["content"]
        for body in server.chats
    }
    assert len(server.chats) == metrics["judge_calls"] > 2 * len(LATENTS)
    assert len(asked) > len(LATENTS)
    asked_texts = [[m["content"] for m in body["messages"]] for body in server.chats]
    replies = [[good_reply(body["messages"])] for body in server.chats]
    assert metrics["judge_tokens"] == sum(map(counted, [*asked_texts, *replies]))
    assert 0.05 < metrics["active_negatives"] < 1


@pytest.mark.usefixtures("server")
def test_negatives_are_inactive_where_they_stand_in_the_text(
    make: Make,
    subjects: list[Subject],
    model: HookedTransformer,
    monkeypatch: pytest.MonkeyPatch,
):
    ran: list[Any] = []
    build = JudgedAutoInterp

    def keep(*args: Any, **kwargs: Any) -> Any:
        ran.append(build(*args, **kwargs))
        return ran[-1]

    monkeypatch.setattr(autointerp, "JudgedAutoInterp", keep)
    record = run(make(latents=(4, 9)))
    tokens = ran[0].tokenized_dataset
    latents = oracle.dense_activations(
        model, folded_copy(subjects[0].load()), tokens, HOOK_NAME
    )
    for detail in record["eval_result_details"]:
        labels, examples = detail["checked_active"], ran[0].checked[detail["latent"]]
        threshold = examples[0].act_threshold
        assert len(labels) == len(examples) == 14
        for label, example in zip(labels, examples, strict=True):
            places = oracle.occurrences(tokens, example.toks)
            seen = [
                latents[row, start : start + 21, detail["latent"]].max() > threshold
                for row, start in places
            ]
            assert label in seen, "as it is where the window stands"
            if len(places) == 1:
                assert seen == [label]


def test_weak_activity_is_none_as_upstream_has_it(
    model: HookedTransformer, model_name: str
):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(100, 9000, (64, 64), generator=generator)
    draw = torch.rand(2, 64, 64, generator=generator)
    # one position in fifty is strong, the others are below 1 % of the strongest
    acts = torch.where(draw[0] < 0.02, 1 + 9 * draw[1], 0.05 * draw[1]).bfloat16()
    metadata = SAEMetadata(model_name=model_name, hook_name=HOOK_NAME, context_size=64)
    sae = StandardSAE(StandardSAEConfig(d_in=1, d_sae=1, metadata=metadata))
    sae.W_enc.data, sae.b_dec.data = torch.ones(1, 1), torch.zeros(1)
    general_utils._standardize_sae_cfg(sae.cfg)
    ran = TokenAutoInterp(
        cfg=AutoInterpEvalConfig(n_latents=1),
        model=model,
        sae=sae,
        tokenized_dataset=tokens,
        sparsity=torch.zeros(1),
        device="cpu",
        api_key="",
        activations=Activations(acts[..., None].float(), tokens > 0, 8),
        latents=[0],
        at_once=1,
        background={},
    )
    _, scoring = ran.gather_data()

    def strongest(window: list[int]) -> float:
        ((row, start),) = oracle.occurrences(tokens, window)
        return acts[row, start : start + 21].max().item()

    labels, examples = ran.labels(0), ran.checked[0]
    assert labels is not None and examples is not None
    found = [strongest(example.toks) for example in examples]
    limit = 0.01 * acts.max().item()
    assert labels == [value > limit for value in found]
    assert labels.count(False) == 10
    assert 0 < min(found) < limit
    random_ones = [e.toks for e in scoring[0] if max(e.acts) == 0]
    dirty = sum(strongest(window) > limit for window in random_ones)
    assert 0 < dirty == ran.scored[0].n_dirty < len(random_ones) == 10


@pytest.mark.usefixtures("server")
def test_equal_to_upstream_called_directly(
    make: Make,
    subjects: list[Subject],
    model: HookedTransformer,
    model_name: str,
    tmp_path: Path,
    artifacts: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    record = run(make(latents=(4, 30)))
    # beartype draws from Python's generator to pick the list items it looks at.
    for name in ("collect_sae_activations", "get_feature_activation_sparsity"):
        drawless = without_draws(getattr(activation_collection, name))
        monkeypatch.setattr(activation_collection, name, drawless)
    context = make()
    (stored,) = {
        p for p in artifacts.rglob("tokens.pt") if torch.load(p).numel() == 4096
    }
    folder = tmp_path / "direct"
    folder.mkdir()
    torch.save(torch.load(stored), folder / f"{model_name}_4096_tokens_64_ctx.pt")
    for detail in record["eval_result_details"]:
        sae = folded_copy(subjects[0].load())
        general_utils._standardize_sae_cfg(sae.cfg)
        config = AutoInterpEvalConfig(
            model_name=model_name,
            n_latents=None,
            override_latents=[detail["latent"]],
            random_seed=latent_seed(context.seed, detail["latent"]),
            llm_context_size=64,
            llm_batch_size=8,
            llm_dtype="float32",
            total_tokens=4096,
        )
        try:
            direct = upstream_main.run_eval_single_sae(
                config, sae, model, "cpu", str(folder), KEY
            )
        finally:
            torch.set_grad_enabled(True)
        theirs: Any = direct[detail["latent"]]
        mine = record["eval_result_unstructured"][str(detail["latent"])]
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-6)
        for name in ("explanation", "predictions", "correct seqs"):
            assert mine[name] == theirs[name]
    scores = [detail["score"] for detail in record["eval_result_details"]]
    metrics = record["eval_result_metrics"]["autointerp"]
    assert metrics["autointerp_score"] == pytest.approx(sum(scores) / 2, abs=1e-6)
    std = torch.tensor(scores).std().item()
    assert metrics["autointerp_std_dev"] == pytest.approx(std, abs=1e-6)


@pytest.mark.slow
def test_order_caches_concurrency_and_faults_change_nothing(
    server: JudgeServer, make: Make, tmp_path: Path
):
    first = make("ab")
    expected = {name: compared(run(first, name)) for name in "ab"}
    assert expected["a"] != expected["b"]
    calls = len(server.chats)
    warm = make("ba", latents=tuple(reversed(LATENTS)), judge_concurrency=1)
    assert EVALUATION.run(warm) == []
    assert len(server.chats) == calls, "all from the cache"
    # concurrency decides which call meets which fault: one may meet them all
    cold = dataclasses.replace(make("b", judge_attempts=6), artifacts=tmp_path / "cold")
    server.faults.extend(["500", "429", "cut", "page"])
    assert EVALUATION.run(cold) == []
    assert len(server.chats) > calls
    for name in "ab":
        assert compared(record_of(warm, name)) == expected[name]
    assert compared(record_of(cold, "b")) == expected["b"]


@pytest.mark.usefixtures("server")
def test_drawn_latents_are_the_same_each_time_and_alive(make: Make):
    drawn = make("ba", latents=None, n_latents=5)
    assert EVALUATION.run(drawn) == []
    alone = make("a", latents=None, n_latents=5)
    assert compared(run(alone)) == compared(record_of(drawn))
    latents = [d["latent"] for d in record_of(drawn)["eval_result_details"]]
    assert len(latents) == 5
    assert not {0, 1} & set(latents), "these never fire"


def test_the_constant_answer_none_scores_the_floor(server: JudgeServer, make: Make):
    server.reply = lambda messages: (
        good_reply(messages) if "activating doc" in messages[1]["content"] else "None"
    )
    metrics = run(make())["eval_result_metrics"]
    assert metrics["checked"]["score"] == metrics["checked"]["floor"]
    assert metrics["checked"]["floor"] == pytest.approx(10 / 14)
    assert metrics["checked"]["balanced_accuracy"] == 0.5
    assert metrics["autointerp"]["autointerp_score"] == pytest.approx(10 / 14)


def test_unparseable_replies_are_counted(server: JudgeServer, make: Make):
    def reply(messages: list[dict[str, str]]) -> str:
        user = messages[1]["content"]
        if "activating doc" in user:
            return good_reply(messages)
        # by its explanation, so the same latents in every run
        return "I think 3 and 4" if len(user.partition("\n")[0]) % 2 else "1, 2"

    server.reply = reply
    record = run(make(latents=tuple(range(2, 14))))
    metrics = record["eval_result_metrics"]["checked"]
    bad = [d for d in record["eval_result_details"] if d["unparseable"]]
    assert 0 < len(bad) < 10
    n = metrics["n_latents"] - metrics["n_latents_without_data"]
    assert metrics["unparseable_rate"] == pytest.approx(len(bad) / n)
    assert all(d["checked_score"] is None and d["score"] is None for d in bad)
    assert metrics["score_n"] == n - len(bad) == metrics["n_latents_upstream"]


def test_unparseable_replies_to_upstreams_own_prompt_are_counted(
    server: JudgeServer, make: Make
):
    first: dict[str, str] = {}

    def reply(messages: list[dict[str, str]]) -> str:
        user = messages[1]["content"]
        if "activating doc" in user:
            return good_reply(messages)
        # the checked prompt comes first; upstream's differs where a negative is active
        seen = first.setdefault(user.partition("\n")[0], user)
        return good_reply(messages) if seen == user else ""

    server.reply = reply
    record = run(make(judge_concurrency=1))
    details = record["eval_result_details"]
    bad = [d for d in details if d["unparseable"]]
    assert bad
    assert all(d["checked_score"] is not None for d in bad)
    rate = record["eval_result_metrics"]["checked"]["unparseable_rate"]
    assert rate == len(bad) / len(details)


def test_a_refused_latent_leaves_the_others(server: JudgeServer, make: Make):
    server.faults.append("400")
    metrics = run(make(judge_concurrency=1))["eval_result_metrics"]["checked"]
    assert metrics["n_latents_refused"] == 1
    assert metrics["score_n"] == len(LATENTS) - 1


def test_budget_keeps_partial_results_and_the_next_run_completes(
    server: JudgeServer, make: Make
):
    whole = compared(run(make()))
    calls = len(server.chats)
    with serving() as other:
        chosen = {"judge_base_url": other.url, "judge_concurrency": 1}
        context = make(**chosen, judge_max_calls=calls - 2)
        failure = fail(context)
        assert "budget is used up" in failure.cause
        assert "larger budget" in failure.cause
        (partial,) = context.out.rglob("*_partial_results.json")
        some = read_result(partial)
        assert 0 < len(some["eval_result_details"]) < len(LATENTS)
        assert load_results(context.out).empty
        context.options["autointerp"]["judge_max_calls"] = 2
        assert compared(run(context)) == whole
        assert len(other.chats) == calls
        assert not list(context.out.rglob("*_partial_results.json"))


def test_too_few_replies_leave_a_partial_file_until_another_failure(
    server: JudgeServer, make: Make
):
    context = make(latents=(0, 4, 9, 30), judge_max_calls=1)
    failure = fail(context)
    assert "3 of 4 latents have no reply" in failure.cause
    (partial,) = context.out.rglob("*_partial_results.json")
    record = read_result(partial)
    jsonschema.validate(record, json.loads(schema_text(JudgedOutput)))
    metrics = record["eval_result_metrics"]
    assert metrics["autointerp"]["autointerp_score"] == -1
    checked = metrics["checked"]
    assert (checked["score"], checked["score_n"]) == (-1, 0)
    assert checked["n_latents_without_data"] == 1, "latent 0 never fires"
    assert checked["n_latents_unanswered"] == 3
    server.always = "400"
    context.options["autointerp"]["judge_max_calls"] = None
    assert "fewer than two latents" in fail(context).cause
    assert not list(context.out.rglob("*_partial_results.json"))


def test_an_error_of_one_sae_leaves_the_judge_to_the_others(
    server: JudgeServer, make: Make, artifacts: Path
):
    folder = artifacts / "judge" / "replies"

    def replies_of(name: str) -> tuple[RunContext, set[Path]]:
        before = set(folder.rglob("*.json"))
        context = make(name)
        run(context, name)
        return context, set(folder.rglob("*.json")) - before

    _, first = replies_of("a")
    alone, second = replies_of("b")
    taken = {path.parent for path in second}
    blocked = next(path.parent for path in sorted(first) if path.parent not in taken)
    for path in first | second:
        path.unlink()
    shutil.rmtree(blocked)
    blocked.touch()
    calls = len(server.chats)
    both = make("ab")
    try:
        (failure,) = EVALUATION.run(both)
    finally:
        blocked.unlink()
    assert failure.sae_id == "a"
    assert "FileExistsError" in failure.cause or "NotADirectory" in failure.cause
    assert compared(record_of(both, "b")) == compared(record_of(alone, "b"))
    assert len(server.chats) >= calls + len(second)


@pytest.mark.usefixtures("server")
def test_runs_where_an_event_loop_is_running(make: Make):
    expected = compared(run(make()))

    async def notebook() -> tuple[Any, ...]:
        return compared(run(make()))

    assert asyncio.run(notebook()) == expected


def test_an_absent_server_fails_every_sae_within_seconds(
    make: Make, monkeypatch: pytest.MonkeyPatch
):
    context = make("ab", judge_base_url="http://127.0.0.1:9/v1")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(InputError, match=KEY_VARIABLE):
        EVALUATION.check(context)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    started = time.monotonic()
    EVALUATION.check(context)
    failures = EVALUATION.run(context)
    assert time.monotonic() - started < 5
    assert [failure.sae_id for failure in failures] == ["a", "b"]
    assert all("No judge answers at http" in failure.cause for failure in failures)


def test_determinants_are_what_a_result_depends_on(
    make: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://one.example/v1/")
    usual = EVALUATION.key(make())
    assert usual["judge_base_url"] == "http://one.example/v1"
    json.dumps(usual)
    paced = make(
        latents=LATENTS[::-1],
        judge_concurrency=2,
        judge_timeout_seconds=5,
        judge_attempts=9,
        judge_backoff_seconds=0,
        judge_max_calls=7,
        judge_max_tokens=7,
        judge_base_url="http://one.example/v1",
    )
    assert EVALUATION.key(paced) == usual
    monkeypatch.setenv("OPENAI_BASE_URL", "http://two.example/v1")
    assert EVALUATION.key(paced) == usual
    assert EVALUATION.key(make()) != usual
    tokens = EVALUATION.key(make(explainer="tokens"))
    other = make(explainer="tokens", judge_model="x", judge_temperature=1)
    assert EVALUATION.key(other) == tokens
    for changed in (
        {"latents": (1, 2)},
        {"judge_model": "other"},
        {"judge_temperature": 0},
        {"save_logs": True},
        {"total_tokens": 2048},
    ):
        context = make(**{"judge_base_url": "http://one.example/v1", **changed})
        assert EVALUATION.key(context) != usual, changed


@pytest.mark.parametrize(
    ("changed", "comparable"),
    [
        ({}, True),
        ({"n_latents": 1000}, True),
        ({"dataset": "heldout"}, False),
        ({"explainer": "tokens"}, False),
        ({"judge_model": "other"}, False),
        ({"judge_temperature": 0}, False),
        ({"latents": (1, 2)}, False),
        ({"total_tokens": 262_144}, False),
    ],
)
def test_only_upstreams_text_and_judge_are_comparable_with_published_scores(
    changed: dict[str, Any], comparable: bool
):
    options = {"dataset": "hub", "total_tokens": 2_000_000, **changed}
    assert is_as_published(AutoInterpOptions(**options)) is comparable


def test_a_server_killed_half_way_loses_nothing(server: JudgeServer, make: Make):
    whole = compared(run(make()))
    calls = len(server.chats)
    with serving() as other:
        other.kill_after = calls - 3
        context = make(judge_base_url=other.url, judge_concurrency=1)
        started = time.monotonic()
        failure = fail(context)
        assert "no usable reply" in failure.cause
        assert time.monotonic() - started < 30
        other.kill_after = None
        assert compared(run(context)) == whole
        assert other.answered == calls


def test_a_server_that_never_answers_fails_by_name(server: JudgeServer, make: Make):
    server.always = "500"
    with serving() as other:
        other.always = "500"
        failure = fail(make(judge_base_url=other.url))
    assert "autointerp of SAE 'a' failed" in failure.cause
    assert "500" in failure.cause or "internal error" in failure.cause
    assert KEY not in failure.cause


@pytest.mark.usefixtures("server")
def test_global_state_is_as_before(make: Make):
    before = (
        upstream_main.AutoInterp,
        upstream_main.ThreadPoolExecutor,
        upstream_main.tqdm,
        activation_collection.get_feature_activation_sparsity,
        activation_collection.collect_sae_activations,
    )
    random.seed(3)
    torch.manual_seed(3)
    expected = random.random(), torch.rand(1).item()
    random.seed(3)
    torch.manual_seed(3)
    run(make())
    assert (random.random(), torch.rand(1).item()) == expected
    assert torch.is_grad_enabled()
    assert before == (
        upstream_main.AutoInterp,
        upstream_main.ThreadPoolExecutor,
        upstream_main.tqdm,
        activation_collection.get_feature_activation_sparsity,
        activation_collection.collect_sae_activations,
    )


def test_tokens_need_no_server_and_are_marked(
    make: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    context = make("ab", explainer="tokens")
    EVALUATION.check(context)
    record = run(context)
    jsonschema.validate(record, json.loads(schema_text(TokenOutput)))
    assert TypeAdapter(AutoInterpEvalOutput).validate_python(record)
    metrics = record["eval_result_metrics"]
    assert "checked" not in metrics
    assert metrics["autointerp"]["autointerp_score"] == -1
    assert record["eval_result_unstructured"]["comparable_with_llm_scores"] is False
    for name, value in oracle.scores(record["eval_result_details"]).items():
        assert metrics["token_explainer"][name] == pytest.approx(value, abs=1e-12)
    again = make("ba", explainer="tokens", latents=tuple(reversed(LATENTS)))
    assert EVALUATION.run(again) == []
    assert compared(record_of(again, "b")) == compared(record_of(context, "b"))


@pytest.mark.usefixtures("server")
def test_explanations_are_read_back(make: Make, tmp_path: Path):
    context = make()
    record = run(context)
    (path,) = context.out.rglob("*_eval_results.json")
    read = read_explanations(path)
    assert list(read) == sorted(LATENTS)
    for detail in record["eval_result_details"]:
        found = read[detail["latent"]]
        assert found.text == detail["explanation"] != ""
        assert (found.score, found.checked_score) == (
            detail["score"],
            detail["checked_score"],
        )
    other = tmp_path / "other.json"
    other.write_text('{"eval_type_id": "core", "eval_result_metrics": {}}')
    with pytest.raises(InputError, match="holds no explanations"):
        read_explanations(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_latent": 3}, "Did you mean 'n_latents'"),
        ({"latents": (1,)}, "2 or more entries"),
        ({"latents": (1, 1)}, "each latent once"),
        ({"latents": (1, 256)}, "autointerp needs 257"),
        ({"latents": None, "n_latents": 257}, "has 256 latents"),
        ({"explainer": "magic"}, "'judge', 'tokens' or 'n2g'"),
        ({"llm_context_size": 21}, "at least 22"),
        ({"judge_attempts": 0}, "judge_attempts is 0"),
        ({"judge_base_url": "127.0.0.1:8000"}, "expected an address"),
        ({"latents": 5}, "latents is 5; expected a list"),
        ({"latents": "12"}, "latents is '12'; expected a list"),
        ({"latents": (True, 3)}, "expected a whole number"),
        ({"latents": ([1], 3)}, "expected a whole number"),
        ({"n_latents": 2.5}, "n_latents is 2.5; expected a whole"),
        ({"dead_latent_threshold": "x"}, "dead_latent_threshold is 'x'; expected"),
        (
            {"dead_latent_threshold": float("nan")},
            "dead_latent_threshold is nan; expected a finite number",
        ),
        ({"dead_latent_threshold": -1}, "dead_latent_threshold is -1"),
        ({"save_logs": "yes"}, "save_logs is 'yes'"),
        ({"judge_model": ""}, "No judge model"),
    ],
)
@pytest.mark.usefixtures("server")
def test_what_cannot_work_is_refused_before_anything_is_loaded(
    make: Make, options: dict[str, Any], message: str
):
    with pytest.raises(InputError, match=message):
        EVALUATION.check(make(**options))


def test_hub_text_needs_a_run_on_hub_data(make: Make):
    context = make(dataset="hub", explainer="tokens")
    with pytest.raises(InputError, match="'heldout'"):
        EVALUATION.check(dataclasses.replace(context, data="embedded"))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1, 3, 14", [1, 3, 14]),
        (" 2,5. ", [2, 5]),
        ("1, 2, and 3", [1, 2, 3]),
        ("4 and 5", [4, 5]),
        ("None", []),
        ("none.", []),
        ("", None),
        ("15", None),
        ("0", None),
        ("1, two", None),
        ("Examples 1 and 2", None),
        ("1; 2", None),
    ],
)
def test_only_the_form_asked_for_is_read(text: str, numbers: list[int] | None):
    assert parse_predictions(text, 14) == numbers


def test_token_explanations_name_what_is_distinctive():
    background = {"the": 0.3, "of": 0.2, "policy": 0.001, "public": 0.001, "a": 0.498}
    examples = [
        Marked(["the", " public", " Policy", " of"], [0, 0, 5.0, 0.1]),
        Marked(["a", " public", " policy", " the"], [0, 0, 2.0, 0]),
    ]
    text = explain(examples, background)
    assert text == 'the tokens "policy"; near "public"'
    assert predict(text, [["no"], ["a", " POLICY"], [" public", "a"]]) == [2]
    odd = explain([Marked(['"; near "', "\n"], [1.0, 2.0])], {"x": 0.01})
    assert predict(odd, [["x"], ["\n"], ['"; near "']]) == [2, 3]
    with pytest.raises(ValueError, match="no explanation"):
        predict("whatever", [])
