"""Judges of steering and fluency: thresholds, scores against plain loops, a served judge."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from eval_recipes.chat import KEY_VARIABLE, JudgeClient, JudgeConfig
from eval_recipes.steering.generate.decoding import Continuation
from eval_recipes.steering.generate.language_model import backend_for
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.judges.chat import ChatJudge, messages, parse_score
from eval_recipes.steering.judges.embedding import (
    EmbeddingJudge,
    SentenceModel,
    ensure_sentences,
)
from eval_recipes.steering.judges.log_probability import (
    LogProbabilityJudge,
    Written,
    concept_tokens,
    concept_words,
    fluency,
    score_texts,
)
from eval_recipes.steering.judges.protocol import (
    Judge,
    Pair,
    Status,
    Threshold,
    calibrate,
)
from saereg_plugin.errors import InputError
from tests.eval_recipes.chat.openai_server import KEY, JudgeServer, serving
from tests.eval_recipes.steering.test_steering import PROMPTS, hooked, llama, tokenizer
from tests.oracles.steering_oracle import concept_log_p, text_nll

SEA = "the sea, ships and sailors"


def pair(steered: str, original: str = "a plain text", concept: str = SEA) -> Pair:
    return Pair(
        concept,
        Prompt("Many people", (1, 2)),
        Continuation((1,), original),
        Continuation((1,), steered),
    )


def token_pair(
    original: tuple[int, ...], steered: tuple[int, ...], concept: str
) -> Pair:
    return Pair(
        concept, PROMPTS[0], Continuation(original, "a"), Continuation(steered, "b")
    )


# thresholds


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.7, 0.9]), min_size=20, max_size=80),
    st.sampled_from([0.05, 0.1, 0.25]),
)
def test_no_more_unsteered_pairs_succeed_than_stated(
    scores: list[float], rate: float
) -> None:
    found = calibrate(scores, rate)
    share = sum(map(found.passed, scores)) / len(scores)
    assert found.achieved == share <= rate + 1e-12
    # a lower threshold would let too many pass
    lower = sum(score >= found.value for score in scores) / len(scores)
    assert lower > rate - 1e-12
    assert found.low is not None and found.high is not None
    assert found.low <= share <= found.high


def test_thresholds_interval_is_clopper_and_pearsons() -> None:
    found = calibrate(list(range(100)), 0.05)
    assert (found.value, found.achieved, found.n) == (94, 0.05, 100)
    # R: binom.test(5, 100)
    assert (found.low, found.high) == pytest.approx((0.0164, 0.1128), abs=1e-4)


def test_thresholds_interval_knows_clusters() -> None:
    scores = [float(n) for n in range(100)]
    apart = calibrate(scores, 0.1, clusters=range(100))
    # ten latents of ten scores each: all that pass are of one of them
    together = calibrate(scores, 0.1, clusters=[n // 10 for n in range(100)])
    assert (apart.value, apart.achieved) == (together.value, together.achieved)
    assert (apart.n, apart.n_clusters, together.n_clusters) == (100, 100, 10)
    for found in (apart, together):
        assert found.low is not None and found.high is not None
        assert found.low < 0.1 < found.high
    assert apart.high is not None and together.high is not None
    assert together.high - 0.1 > 2 * (apart.high - 0.1)


@pytest.mark.parametrize(
    ("scores", "rate", "message"),
    [
        ([0.1] * 19, 0.05, "19 unsteered pairs are too few .* expected 20 or more"),
        ([0.1] * 20, 0.0, "rate is 0"),
        ([0.1, math.nan], 0.5, "not finite"),
    ],
)
def test_a_threshold_that_cannot_be_learned_is_refused(
    scores: list[float], rate: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        calibrate(scores, rate)


# perplexity and log-probabilities


@pytest.mark.parametrize("make", [llama, hooked])
def test_scores_are_those_of_a_plain_loop(make: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    texts = [
        Written(PROMPTS[0], (3, 4, 5)),
        Written(PROMPTS[2], (9,)),
        Written(PROMPTS[1], (30, 31, 2, 3, 4, 5, 6)),
        Written(PROMPTS[0], (3, 4, 5)),
    ]
    concepts = {texts[0]: [(7, 8), (11,)], texts[2]: [(7, 8)]}
    found = score_texts(backend_for(model), texts, concepts=concepts, batch_size=2)
    for text, score in zip(texts, found, strict=True):
        tokens = text.prompt.tokens, text.tokens
        assert score.nll == pytest.approx(text_nll(model, *tokens), abs=1e-5)
        assert score.perplexity == pytest.approx(math.exp(score.nll))
        assert list(score.concepts) == concepts.get(text, [])
        for concept, value in score.concepts.items():
            expected = concept_log_p(model, *tokens, concept)
            assert value == pytest.approx(expected, abs=1e-5)


def test_fluency_compares_both_texts_under_the_unsteered_model() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = llama()
    one = token_pair((3, 4), (5, 6, 7), "w8")
    none = token_pair((3, 4), (), "w8")
    found = fluency(backend_for(model), [one, none])
    expected = [text_nll(model, PROMPTS[0].tokens, ids) for ids in ((3, 4), (5, 6, 7))]
    loss = math.log(found[0].steered / found[0].original)
    assert loss == pytest.approx(expected[1] - expected[0], abs=1e-5)
    assert found[0].original == found[1].original
    assert math.isnan(found[1].steered)
    # what the log-probability judge has read is not read again
    judge = LogProbabilityJudge(backend_for(model), tokenizer(), threshold=Threshold(0))
    judge.judge([token_pair((3, 4), (5, 6, 7), '"w8"')])
    assert {text.tokens for text in judge.seen} == {(3, 4), (5, 6, 7)}
    again = fluency(backend_for(model), [one, none], seen=judge.seen)
    assert again[0].steered == pytest.approx(found[0].steered, rel=1e-5)
    assert again[0].original == judge.seen[Written(PROMPTS[0], (3, 4))].perplexity


def test_concepts_are_their_words() -> None:
    assert concept_words('the tokens "Policy", " law", "a\\"b"; near "public"') == [
        "Policy",
        "law",
        'a"b',
        "public",
    ]
    assert concept_words("This neuron fires on words about the sea.") == ["sea"]
    assert concept_words("the and of") == []


def test_concept_tokens_are_single_token_forms() -> None:
    # the small tokenizer knows only lower-case words
    assert concept_tokens('"w9", "W3"', tokenizer()) == (0, 3, 9)


def test_log_probability_judge_is_a_difference_of_texts() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = llama()
    judge = LogProbabilityJudge(
        backend_for(model), tokenizer(), threshold=Threshold(0.0)
    )
    there = token_pair((3, 4), (5, 6, 7), '"w8"')
    back = token_pair((5, 6, 7), (3, 4), '"w8"')
    same = token_pair((3, 4), (3, 4), '"w8"')
    wordless = token_pair((3, 4), (5,), "the and of")
    verdicts = judge.judge([there, back, same, wordless])
    concept = concept_tokens('"w8"', tokenizer())
    steered, original = (
        concept_log_p(model, PROMPTS[0].tokens, ids, concept)
        for ids in ((5, 6, 7), (3, 4))
    )
    assert verdicts[0].score == pytest.approx(steered - original, abs=1e-5)
    assert verdicts[1].score == pytest.approx(original - steered, abs=1e-5)
    assert (verdicts[2].score, verdicts[2].success) == (0, False)
    assert verdicts[0].success is not verdicts[1].success
    assert verdicts[3].status is Status.NOT_APPLICABLE
    assert (verdicts[3].success, verdicts[3].reason) == (
        None,
        "the concept names no word",
    )


# sentence embeddings


@pytest.fixture(scope="module")
def sentences() -> SentenceModel:
    return SentenceModel()


def test_embeddings_are_mean_pooled_unit_vectors(sentences: SentenceModel) -> None:
    texts = [SEA, "A much longer sentence about nothing in particular. " * 60, "x", ""]
    found = sentences.embed(texts, batch_size=3)
    folder = ensure_sentences()
    encode: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder).eval()
    for text, vector in zip(texts, found, strict=True):
        ids = encode(text)["input_ids"]
        ids = ids if len(ids) <= 256 else [*ids[:255], ids[-1]]
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0]
        expected = states.mean(0) / states.mean(0).norm()
        torch.testing.assert_close(vector, expected, rtol=0, atol=1e-5)
    assert found.shape == (4, 384)


def test_embedding_judge_hears_the_concept(sentences: SentenceModel) -> None:
    sailing = pair("the sailors took their ship out to sea before the storm")
    cooking = pair("you must whisk the eggs and add the flour slowly")
    was_there = pair("ships sail on the sea", original="the sea is full of ships")
    published: Judge = EmbeddingJudge.published(sentences)
    verdicts = published.judge([sailing, cooking, was_there])
    assert [verdict.success for verdict in verdicts] == [True, False, True]
    gain = EmbeddingJudge(sentences, threshold=Threshold(0.2))
    gained = gain.judge([sailing, cooking, was_there, pair("the sea", "the sea")])
    assert [verdict.success for verdict in gained] == [True, False, False, False]
    assert gained[3].score == 0
    assert gain.judge([pair(" ")])[0].reason == "the steered text is empty"
    assert gain.describe()["measure"] == "gain"


def test_a_judge_without_a_threshold_asks_for_one(sentences: SentenceModel) -> None:
    judge = EmbeddingJudge(sentences)
    with pytest.raises(InputError, match="embedding judge has no threshold"):
        judge.judge([pair("the sea")])
    unsteered = [pair(f"number {n} is odd", f"{n} is a number") for n in range(20)]
    found = judge.calibrate(unsteered, rate=0.1)
    assert found.n == 20
    assert sum(bool(verdict.success) for verdict in judge.judge(unsteered)) == 2
    assert judge.judge([pair("the sea")])[0].success
    with pytest.raises(InputError, match="Did you mean 'similarity'"):
        EmbeddingJudge(sentences, measure="similarit")  # pyright: ignore[reportArgumentType]


# a chat model


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with serving() as judge:
        judge.reply = lambda messages: "5" if "sea" in b_of(messages) else "3"
        yield judge


def b_of(messages: Any) -> str:
    return messages[-1]["content"].partition("\n\nB: ")[2]


def client(server: JudgeServer, root: Path, **settings: Any) -> JudgeClient:
    config = JudgeConfig(
        model="judge",
        base_url=server.url,
        temperature=0,
        backoff_seconds=0.01,
        **settings,
    )
    return JudgeClient(config, root)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("4", 4),
        (" **Score: 5** ", 5),
        ("3/5.", 3),
        ("0", None),
        ("45", None),
        ("I'd say 4", None),
        ("", None),
    ],
)
def test_a_reply_is_one_digit(reply: str, score: int | None) -> None:
    assert parse_score(reply) == score


def test_chat_judge_scores_and_repeats_no_paid_call(
    server: JudgeServer, tmp_path: Path
) -> None:
    pairs = [pair("out to sea"), pair("in the kitchen"), pair("sea, sea")]
    first = ChatJudge(client(server, tmp_path)).judge(pairs)
    assert [(one.score, one.success) for one in first] == [
        (5, True),
        (3, False),
        (5, True),
    ]
    assert len(server.chats) == 3
    assert server.chats[0]["temperature"] == 0
    again = client(server, tmp_path)
    assert ChatJudge(again).judge(pairs) == first
    assert (len(server.chats), again.cache_hits) == (3, 3)


def test_what_the_chat_judge_sees() -> None:
    said = messages(pair(" out to sea", " a plain text"))[-1]["content"]
    assert said == (
        f"Concept: {SEA}\n\nOpening words: Many people\n\nA: a plain text\n\nB: out to sea"
    )


def test_an_interrupted_run_goes_on_where_the_budget_ended(
    server: JudgeServer, tmp_path: Path
) -> None:
    pairs = [pair(f"text {number}") for number in range(5)]
    limited = client(server, tmp_path, max_calls=2, concurrency=1)
    verdicts = ChatJudge(limited).judge(pairs)
    assert [verdict.status for verdict in verdicts] == [Status.JUDGED] * 2 + [
        Status.UNANSWERED
    ] * 3
    assert "budget is used up" in verdicts[2].reason
    rest = ChatJudge(client(server, tmp_path)).judge(pairs)
    assert {verdict.status for verdict in rest} == {Status.JUDGED}
    assert len(server.chats) == 5


@pytest.mark.parametrize("fault", ["drip body", "drip head", "429:60", "slow"])
def test_one_ctrl_c_ends_all_waits_and_replies_stay(
    server: JudgeServer, tmp_path: Path, fault: str
) -> None:
    pairs = [pair(f"text {number}") for number in range(20)]
    judge = ChatJudge(client(server, tmp_path, concurrency=4))
    assert judge.judge(pairs[:1])[0].score == 3
    server.always = fault
    pressed: list[float] = []

    def press() -> None:
        while server.at_once < 4 and len(server.chats) < 5:
            time.sleep(0.01)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        judge.judge(pairs)
    assert time.monotonic() - pressed[0] < 2
    thread.join()
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in kept if path.name != ".saereg.lock"} == {".json"}
    again = client(server, tmp_path, concurrency=4)
    assert ChatJudge(again).judge(pairs[:1])[0].score == 3
    assert again.cache_hits == 1


def test_replies_that_are_no_score_are_told_apart(
    server: JudgeServer, tmp_path: Path
) -> None:
    judge = ChatJudge(client(server, tmp_path, concurrency=1, attempts=2))
    server.reply = lambda _: "B is nicer"
    assert judge.judge([pair("one")])[0].status is Status.UNPARSEABLE
    server.reply = lambda _: None
    empty = judge.judge([pair("nothing")])[0]
    assert (empty.status, empty.success) == (Status.UNPARSEABLE, None)
    assert "empty: it spent 0 of at most 16 tokens" in empty.reason
    server.reply = lambda _: "4"
    server.always = "400"
    refused = judge.judge([pair("two")])[0]
    assert (refused.status, refused.success) == (Status.REFUSED, None)
