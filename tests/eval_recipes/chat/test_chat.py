"""The judge's client against a real server on loopback, well and badly behaved."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import shutil
import socket
import subprocess
import threading
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from eval_recipes.chat import (
    KEY_VARIABLE,
    BudgetExceeded,
    JudgeClient,
    JudgeConfig,
    JudgeError,
    JudgeUnavailable,
    RequestRefused,
)
from eval_recipes.chat.budget import Budget
from eval_recipes.chat.connection import find_proxy, tls
from eval_recipes.chat.errors import backoff, retry_after
from eval_recipes.chat.messages import Reply, ReplyCache, most_bytes
from eval_recipes.running.artifact_space import clean_artifacts
from eval_recipes.running.artifacts import open_artifacts
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_json
from tests.eval_recipes.chat.openai_server import KEY, JudgeServer, bomb, serving

pytestmark = pytest.mark.slow

HELLO = [{"role": "user", "content": "Hello"}]

Make = Callable[..., JudgeClient]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with serving() as judge:
        judge.reply = lambda messages: f"echo {messages[-1]['content']}"
        yield judge


@pytest.fixture
def make(server: JudgeServer, tmp_path: Path) -> Iterator[Make]:
    """Make clients of the server that wait hardly at all."""
    made: list[JudgeClient] = []

    def build(**settings: Any) -> JudgeClient:
        chosen: dict[str, Any] = {
            "model": "judge",
            "base_url": server.url,
            "backoff_seconds": 0.01,
            "timeout_seconds": 5,
            **settings,
        }
        made.append(JudgeClient(JudgeConfig(**chosen), tmp_path))
        return made[-1]

    yield build
    for client in made:
        client.close()


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_reply_parameters_and_usage(server: JudgeServer, make: Make):
    reply = make(temperature=0).ask(chat("one two"), max_tokens=7)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == (
        "echo one two",
        2,
        3,
    )
    (sent,) = server.chats
    assert (sent["model"], sent["max_tokens"], sent["temperature"]) == ("judge", 7, 0)
    make().ask(chat("no temperature"), max_tokens=7)
    assert "temperature" not in server.chats[-1]


@pytest.mark.parametrize(
    ("fault", "lost"),
    [
        ("429", 0),
        ("429:0.05", 0),
        # the prompt's
        ("500", 2),
        ("page", 2),
        ("no json", 2),
        ("no choices", 2),
        ("half", 2),
        ("cut", 2),
        # the server's
        ("no choices, usage", 50),
    ],
)
def test_passing_faults_are_tried_again(
    server: JudgeServer, make: Make, fault: str, lost: int
):
    server.faults.extend([fault, fault])
    client = make()
    assert client.ask(HELLO, max_tokens=5).text == "echo Hello"
    assert len(server.chats) == 3
    # 2 and 3 tokens by their characters, which is more than the server's words
    tokens = 2 * lost + 5
    assert (client.retries, client.budget.calls, client.budget.tokens) == (2, 3, tokens)
    assert make().ask(HELLO, max_tokens=5).text == "echo Hello"
    assert len(server.chats) == 3, "only the good reply is kept, and it is"


def test_silence_ends_in_a_time_out(server: JudgeServer, make: Make):
    server.faults.append("slow")
    client = make(timeout_seconds=0.2)
    assert client.ask(HELLO, max_tokens=5).text == "echo Hello"
    assert client.retries == 1
    # all 26 that were set aside, and the reply's 5
    assert client.budget.tokens == 31


def test_a_request_that_never_left_takes_no_tokens(make: Make):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client = make(base_url=f"http://127.0.0.1:{closed.getsockname()[1]}/v1")
        with pytest.raises(JudgeUnavailable, match="refused"):
            client.ask(HELLO, max_tokens=5)
    assert client.budget.calls > 1
    assert client.budget.tokens == 0


def test_an_attempt_that_is_called_off_takes_what_was_set_aside(
    server: JudgeServer, make: Make
):
    server.always = "drip head"
    client = make()
    threading.Timer(0.3, client.stop).start()
    with pytest.raises(JudgeUnavailable, match="interrupted"):
        client.ask(HELLO, max_tokens=5)
    assert client.budget.tokens == 26


def test_retry_after_is_honoured(server: JudgeServer, make: Make):
    server.faults.append("429:1")
    make().ask(HELLO, max_tokens=5)
    first, second = server.times
    assert second - first >= 1


def test_a_wait_that_is_too_long_fails_at_once(server: JudgeServer, make: Make):
    server.always = "429:3600"
    started = time.monotonic()
    with pytest.raises(JudgeUnavailable, match="slow down"):
        make().ask(HELLO, max_tokens=5)
    assert time.monotonic() - started < 5
    assert len(server.chats) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": formatdate(1030, usegmt=True)}, 30),
        ({"retry-after": formatdate(970, usegmt=True)}, 0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "nan"}, 0),
        ({}, 0),
    ],
)
def test_forms_of_retry_after(headers: dict[str, str], seconds: float):
    assert retry_after(headers, now=1000) == seconds


def test_waits_grow_are_seeded_and_capped():
    config = JudgeConfig(model="m", backoff_seconds=1, max_wait_seconds=10, seed=3)
    waits = [backoff(config, "key", attempt) for attempt in range(1, 8)]
    assert waits == [backoff(config, "key", attempt) for attempt in range(1, 8)]
    for wait, longest in zip(waits, [1, 2, 4, 8, 10, 10, 10], strict=True):
        assert longest / 2 <= wait <= longest
    assert waits[0] != backoff(config, "other", 1)
    other = JudgeConfig(model="m", backoff_seconds=1, max_wait_seconds=10, seed=4)
    assert waits[0] != backoff(other, "key", 1)


def test_a_refused_request_does_not_stop_others(server: JudgeServer, make: Make):
    client = make()
    server.faults.extend(["400"] * 4)
    for number in range(4):
        with pytest.raises(RequestRefused, match="moderation"):
            client.ask(chat(str(number)), max_tokens=5)
    assert client.ask(HELLO, max_tokens=5).text == "echo Hello"
    assert client.retries == 0


@pytest.mark.parametrize("fault", ["401", "404", "quota"])
def test_what_no_attempt_can_mend_stops_at_once(
    server: JudgeServer, make: Make, fault: str
):
    client = make()
    server.faults.append(fault)
    with pytest.raises(JudgeUnavailable):
        client.ask(HELLO, max_tokens=5)
    with pytest.raises(JudgeUnavailable, match="not asked any more"):
        client.ask(HELLO, max_tokens=5)
    assert len(server.chats) == 1


def test_a_dead_server_is_given_up_after_a_few_requests(
    server: JudgeServer, make: Make
):
    client = make(attempts=2, max_failures=2)
    assert client.ask(HELLO, max_tokens=5).text == "echo Hello"
    server.always = "cut"
    for number in range(5):
        with pytest.raises(JudgeUnavailable):
            client.ask(chat(str(number)), max_tokens=5)
    assert len(server.chats) == 1 + 2 * 2
    assert client.ask(HELLO, max_tokens=5).text == "echo Hello", "from the cache"


def test_the_newer_name_of_the_limit_is_found(server: JudgeServer, make: Make):
    server.always = "rename"
    client = make()
    assert client.ask(HELLO, max_tokens=5).text == "echo Hello"
    assert client.ask(chat("again"), max_tokens=5).text == "echo again"
    assert [("max_tokens" in body) for body in server.chats] == [True, False, False]
    assert server.chats[-1]["max_completion_tokens"] == 5


def test_cache_is_keyed_by_everything_that_determines_a_reply(
    server: JudgeServer, make: Make
):
    variants: list[dict[str, Any]] = [
        {},
        {"model": "other"},
        {"temperature": 0},
        {"temperature": 1},
        {"base_url": server.url.replace("127.0.0.1", "localhost")},
    ]
    clients = [make(**settings) for settings in variants]
    asked = list(itertools.product(clients, ["a", "b"], [5, 6]))
    keys = {
        client.ask(chat(text), max_tokens=limit).key for client, text, limit in asked
    }
    assert len(keys) == len(server.chats) == len(asked)
    same = make(seed=1, concurrency=1, timeout_seconds=7)
    assert same.ask(chat("a"), max_tokens=5).key in keys
    assert len(server.chats) == len(asked)


def test_a_damaged_reply_is_fetched_again(
    server: JudgeServer, make: Make, tmp_path: Path
):
    reply = make().ask(HELLO, max_tokens=5)
    (file,) = tmp_path.rglob(f"{reply.key}.json")
    for damaged in (file.read_text()[:10], "[]", '{"text": 3}', ""):
        file.write_text(damaged)
        assert make().ask(HELLO, max_tokens=5) == reply
    assert len(server.chats) == 5
    clean_artifacts(tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_the_same_request_at_once_is_sent_once(server: JudgeServer, make: Make):
    server.pause = 0.1
    client = make()
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: client.ask(HELLO, max_tokens=5), range(8)))
    assert len(set(replies)) == len(server.chats) == 1
    assert client.cache_hits == 7


def test_requests_at_once_are_limited(server: JudgeServer, make: Make):
    server.pause = 0.05
    client = make(concurrency=3)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda n: client.ask(chat(str(n)), max_tokens=5), range(12)))
    assert server.most_at_once == 3


def test_a_budget_in_calls_holds_across_threads_and_resumes(
    server: JudgeServer, make: Make
):
    def ask(client: JudgeClient, number: int) -> str | None:
        try:
            return client.ask(chat(str(number)), max_tokens=5).text
        except BudgetExceeded as error:
            assert "4 of 4 calls" in str(error)
            assert "larger budget" in str(error)
            return None

    client = make(max_calls=4)
    with ThreadPoolExecutor(6) as pool:
        texts = list(pool.map(lambda n: ask(client, n), range(6)))
    assert sum(text is not None for text in texts) == len(server.chats) == 4
    rest = make(max_calls=2)
    texts = [ask(rest, number) for number in range(6)]
    assert texts == [f"echo {number}" for number in range(6)]
    assert len(server.chats) == 6


def test_a_budget_in_tokens_is_never_exceeded(server: JudgeServer, make: Make):
    server.pause = 0.05
    client = make(max_tokens=40)
    done = 0
    lock = threading.Lock()

    def ask(number: int) -> None:
        nonlocal done
        try:
            # 1 byte, 16 for the template and 9 of reply are set aside, 3 are used
            client.ask(chat(str(number)), max_tokens=9)
        except BudgetExceeded:
            return
        with lock:
            done += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(30)))
    assert done == len(server.chats)
    assert client.budget.tokens == 3 * done <= 40
    assert done >= 4


def test_a_server_with_a_token_a_character_cannot_exceed_the_budget(
    server: JudgeServer, make: Make
):
    server.pause = 0.05
    server.tokens_of = len
    server.reply = lambda _: "x" * 20
    client = make(max_tokens=1000)

    def ask(number: int) -> bool:
        try:
            return bool(client.ask(chat(f"{number:0100}"), max_tokens=20).text)
        except BudgetExceeded as error:
            assert "of 1000 tokens, up to 136 for the next call" in str(error)
            return False

    with ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(ask, range(30)))
    assert server.most_at_once > 1
    assert client.budget.tokens == 120 * done <= 1000
    assert done == 8, "one that does not fit waits for those under way"


def test_a_request_that_took_more_makes_the_next_ones_set_more_aside():
    budget = Budget(None, 100)
    assert budget.reserve(10) == budget.reserve(10) == 10
    budget.settle(10, 10, 30)
    budget.settle(10, 10, 30)
    assert (budget.reserve(10), budget.tokens) == (30, 60)
    budget.settle(10, 30, 10)
    assert budget.reserve(10) == 30
    budget.settle(10, 30, 30)
    with pytest.raises(BudgetExceeded, match="100 of 100 tokens, up to 30"):
        budget.reserve(10)


def test_a_signal_calls_off_its_own_requests_only(server: JudgeServer, make: Make):
    client = make(backoff_seconds=60)
    signal = client.signal()
    server.always = "500"
    threading.Timer(0.3, signal.set).start()
    started = time.monotonic()
    with pytest.raises(JudgeUnavailable, match="called off"):
        client.ask(HELLO, max_tokens=5, signal=signal)
    assert time.monotonic() - started < 10
    assert len(server.chats) == 1
    server.always = None
    assert client.ask(HELLO, max_tokens=5).text == "echo Hello"
    later = client.signal()
    assert client.ask(chat("later"), max_tokens=5, signal=later).text == "echo later"
    client.stop()
    assert later.is_set() and client.signal().is_set()


def test_missing_usage_is_estimated(server: JudgeServer, make: Make):
    server.counts_tokens = False
    client = make()
    reply = client.ask(HELLO, max_tokens=5)
    assert (reply.prompt_tokens, reply.completion_tokens) == (2, 3)
    assert client.budget.tokens == 5


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_an_empty_reply_is_asked_for_again_by_another_client(
    server: JudgeServer, make: Make, tmp_path: Path, nothing: str | None
):
    server.reply = lambda _: nothing
    client = make()
    found = [client.ask(HELLO, max_tokens=5) for _ in range(2)]
    assert found[0].text == "" and found[0] == found[1]
    assert len(server.chats) == client.budget.calls == 1
    assert not list(tmp_path.rglob("*.json"))
    # as an earlier version kept it
    open_artifacts(tmp_path)
    key = found[0].key
    record = {"text": "", "prompt_tokens": 1, "completion_tokens": 0}
    write_json(client.cache.folder / key[:2] / f"{key}.json", record)
    server.reply = lambda _: "4"
    assert make().ask(HELLO, max_tokens=5).text == "4"
    assert make().ask(HELLO, max_tokens=5).text == "4"
    assert len(server.chats) == 2


@pytest.mark.parametrize("fault", ["drip head", "drip body"])
def test_a_reply_that_drips_ends_with_the_deadline(
    server: JudgeServer, make: Make, fault: str
):
    server.faults.append(fault)
    started = time.monotonic()
    assert make(timeout_seconds=0.5).ask(HELLO, max_tokens=5).text == "echo Hello"
    assert 0.5 <= time.monotonic() - started < 2


@pytest.mark.parametrize("fault", ["drip head", "drip body", "slow"])
def test_a_list_of_models_that_drips_is_refused_within_seconds(
    server: JudgeServer, make: Make, fault: str
):
    server.list_fault = fault
    started = time.monotonic()
    with pytest.raises(InputError, match=r"No judge answers .* within 0\.5 s"):
        make(timeout_seconds=0.5).check()
    assert time.monotonic() - started < 2


def test_a_connection_that_nobody_accepts_ends_with_the_deadline(make: Make):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        started = time.monotonic()
        client = make(base_url=f"http://127.0.0.1:{port}/v1", timeout_seconds=0.5)
        with pytest.raises(InputError, match="No judge answers"):
            client.check()
        assert time.monotonic() - started < 2
        for one in waiting:
            one.close()


@pytest.mark.parametrize("fault", ["drip head", "drip body", "slow", "429:60"])
def test_stop_ends_every_wait_and_keeps_what_came(
    server: JudgeServer, make: Make, fault: str
):
    client = make(timeout_seconds=60, concurrency=4)
    assert client.ask(HELLO, max_tokens=5).text == "echo Hello"
    server.always = fault
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(client.ask, chat(str(number)), max_tokens=5)
            for number in range(8)
        ]
        while len(server.chats) < 5:
            time.sleep(0.01)
        started = time.monotonic()
        client.stop()
        for future in asked:
            with pytest.raises(JudgeUnavailable, match="interrupted"):
                future.result(timeout=2)
        assert time.monotonic() - started < 2
    assert client.ask(HELLO, max_tokens=5).text == "echo Hello", "from the cache"


@pytest.mark.parametrize("fault", ["long", "gzip"])
def test_a_reply_that_is_too_long_fails_unread_and_is_not_kept(
    server: JudgeServer, make: Make, tmp_path: Path, fault: str
):
    bomb()
    server.always = fault
    client = make(max_tokens=1000)
    tracemalloc.start()
    try:
        with pytest.raises(JudgeUnavailable, match="more than [0-9,]+ bytes"):
            client.ask(HELLO, max_tokens=5)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert server.sent < 20e6, "what the kernel's buffers take"
    assert (len(server.chats), client.budget.tokens) == (1, 21 + 5)
    assert not list(tmp_path.rglob("*.json"))


def test_a_reply_in_garbled_chunks_fails_unread_and_is_not_kept(
    server: JudgeServer, make: Make, tmp_path: Path
):
    server.always = "negative chunk"
    with pytest.raises(JudgeUnavailable, match="illegal chunk header"):
        make(attempts=1).ask(HELLO, max_tokens=5)
    assert server.sent < 20e6, "what the kernel's buffers take"
    assert not list(tmp_path.rglob("*.json"))


def test_a_reply_as_long_as_it_may_be_is_read(server: JudgeServer, make: Make):
    server.reply = lambda _: "x" * (most_bytes(1000) - 1000)
    assert len(make().ask(HELLO, max_tokens=1000).text) == most_bytes(1000) - 1000


def test_bodies_of_errors_and_lists_are_bounded(server: JudgeServer, make: Make):
    server.always = "long error"
    with pytest.raises(RequestRefused, match="HTTP 400"):
        make().ask(HELLO, max_tokens=5)
    server.list_fault = "long"
    server.always = None
    make().check()
    assert len(server.chats) == 2, "the model itself is asked"
    server.list_fault = "long error"
    make().check()
    assert server.sent < 60e6


def test_an_unknown_compression_is_tried_again(server: JudgeServer, make: Make):
    server.faults.append("brotli")
    client = make()
    assert client.ask(HELLO, max_tokens=5).text == "echo Hello"
    assert client.retries == 1


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -100_000, "completion_tokens": -1},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": "many", "completion_tokens": True},
        {"prompt_tokens": 1e300, "completion_tokens": 10**400},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"total_tokens": 1},
        ["many"],
        "many",
    ],
)
def test_a_budget_in_tokens_binds_whatever_the_server_counts(
    server: JudgeServer, make: Make, usage: Any
):
    server.usage = usage
    server.reply = lambda _: "x" * 39
    client = make(max_tokens=1000)
    reply = client.ask(chat("y" * 41), max_tokens=10)
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 10)
    with pytest.raises(BudgetExceeded):
        for number in range(1000):
            client.ask(chat(f"{number:041}"), max_tokens=10)
    assert 900 < client.budget.tokens <= 1000
    assert client.budget.tokens == 21 * len(server.chats)


@pytest.mark.parametrize(
    ("moved", "named"),
    [
        (
            "http://elsewhere.invalid:81/v1/x?k=1",
            "http://elsewhere.invalid:81/v1/x, and",
        ),
        ("/v1/other", r"http://127\.0\.0\.1:\d+/v1/other"),
        ("http://[b/v1", "an address that is none"),
        (f"//a@b.invalid/{KEY}", r"http://b\.invalid/\*\*\*"),
    ],
)
def test_redirects_are_refused_and_named(
    server: JudgeServer, make: Make, moved: str, named: str
):
    server.moved = moved
    server.always = "redirect"
    client = make()
    with pytest.raises(JudgeUnavailable, match=named) as caught:
        client.ask(HELLO, max_tokens=5)
    assert server.url in str(caught.value)
    assert len(server.chats) == 1
    server.list_fault = "redirect"
    with pytest.raises(InputError, match=named):
        client.check()


@pytest.mark.parametrize("key", ["sk-secret\n123", "sk-secrét", "sk-secret\x00", " \n"])
def test_an_unusable_key_is_refused_by_the_name_of_its_variable(
    make: Make, monkeypatch: pytest.MonkeyPatch, key: str
):
    if "\x00" in key:
        monkeypatch.setattr("os.environ", {KEY_VARIABLE: key})
    else:
        monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(InputError, match=KEY_VARIABLE) as caught:
        make()
    assert "secr" not in str(caught.value)


def test_hostile_text_is_cleaned_and_usable(server: JudgeServer, make: Make):
    server.reply = lambda _: "sea\ud800 \x00\x1b[2J\u2028 \U0001f30a"
    text = "sea\ufffd \ufffd\ufffd[2J\u2028 \U0001f30a"
    reply = make().ask(HELLO, max_tokens=5)
    assert reply.text == text
    server.reply = lambda messages: messages[-1]["content"]
    assert make().ask(chat(reply.text), max_tokens=5).text == text
    assert make().ask(HELLO, max_tokens=5).text == text, "from the cache"
    # as an earlier version kept it
    key = reply.key
    record = {"text": "sea\ud800", "prompt_tokens": 1, "completion_tokens": 1}
    write_json(make().cache.folder / key[:2] / f"{key}.json", record)
    assert make().ask(HELLO, max_tokens=5).text == "sea\ufffd"


def test_a_reply_changed_on_disk_is_told_and_asked_again(
    server: JudgeServer,
    make: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    reply = make().ask(HELLO, max_tokens=5)
    other = make().ask(chat("other"), max_tokens=5)
    (file,) = tmp_path.rglob(f"{reply.key}.json")
    (second,) = tmp_path.rglob(f"{other.key}.json")
    whole = file.read_text()
    for changed in (
        whole.replace("echo", "ech0"),
        second.read_text(),
        whole.replace('"prompt_tokens": 2', '"prompt_tokens": -2'),
        " " * (1 << 24) + whole,
    ):
        assert changed != whole
        file.write_text(changed)
        caplog.clear()
        assert make().ask(HELLO, max_tokens=5) == reply
        assert str(file) in caplog.text and "asked again" in caplog.text
    assert len(server.chats) == 6
    assert ReplyCache(tmp_path).get(reply.key) == reply
    # version 0.1.0 wrote no hash
    record = {"text": "kept", "prompt_tokens": 1, "completion_tokens": 1}
    write_json(file, record)
    assert ReplyCache(tmp_path).get(reply.key) == Reply(reply.key, "kept", 1, 1)


def test_a_proxy_of_the_environment_is_used(
    server: JudgeServer, make: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    proxy = server.url.removesuffix("/v1").replace("//", "//me:pass@")
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("https_proxy", proxy)
    client = make(base_url="http://judge.invalid/v1")
    assert client.ask(HELLO, max_tokens=5).text == "echo Hello"
    with pytest.raises(InputError, match="ProxyError: 403"):
        make(base_url="https://judge.invalid/v1").check()
    assert server.paths == [
        "http://judge.invalid/v1/chat/completions",
        "judge.invalid:443",
    ]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    make().check()
    assert server.paths[-1] == "/v1/models"
    monkeypatch.setenv("http_proxy", "socks5://a")
    with pytest.raises(InputError, match="names a proxy for http that is none"):
        make(base_url="http://judge.invalid/v1").check()


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({"http_proxy": "http://[::1]:8080"}, "::1"),
        ({"all_proxy": "http://all:8080"}, "all"),
        ({"http_proxy": "http://one", "all_proxy": "http://all"}, "one"),
        ({"http_proxy": "http://one", "no_proxy": "judge.invalid:99"}, None),
        ({"http_proxy": "http://one", "no_proxy": "judge.invalid:98"}, "one"),
        ({"http_proxy": "http://one", "no_proxy": "judge.invalid"}, None),
    ],
)
def test_proxies_of_the_environment_are_found(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], proxy: str | None
):
    for name in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = find_proxy(urlsplit("http://judge.invalid:99/v1"))
    assert (found and found.hostname) == proxy


def test_a_proxy_with_an_ipv6_address_is_asked(
    make: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", "http://[::1]:9")
    with pytest.raises(InputError, match="ConnectError"):
        make(base_url="http://judge.invalid/v1").check()


def test_an_answer_before_the_request_is_read_is_heeded(make: Make):
    """A server may refuse a long request by its head, and hang up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            with listening.accept()[0] as connection:
                connection.recv(1024)
                connection.sendall(
                    b"HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo long"
                )

        thread = threading.Thread(target=refuse)
        thread.start()
        client = make(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
        with pytest.raises(RequestRefused, match="HTTP 413: too long"):
            client.ask(chat("x" * 50_000_000), max_tokens=5)
        thread.join()


def make_certificate(folder: Path) -> Path:
    """Make a certificate of 127.0.0.1 that nobody signed, with its key in front."""
    names = "/CN=127.0.0.1", "subjectAltName=IP:127.0.0.1"
    parts = [folder / "key", folder / "certificate"]
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2"]
        + ["-subj", names[0], "-addext", names[1]]
        + ["-keyout", str(parts[0]), "-out", str(parts[1])],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    both = folder / "loopback.pem"
    both.write_text("".join(part.read_text() for part in parts))
    return both


def test_the_account_of_the_environment_is_named(
    server: JudgeServer, make: Make, monkeypatch: pytest.MonkeyPatch
):
    make().ask(HELLO, max_tokens=5)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    make().ask(chat("other"), max_tokens=5)
    assert server.accounts == [None, "org-1"]
    monkeypatch.setenv("OPENAI_ORG_ID", "org\n1")
    with pytest.raises(InputError, match="OPENAI_ORG_ID holds a line break"):
        make()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate")
def test_tls_is_checked_and_ends_with_the_deadline(
    make: Make,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
):
    certificate = make_certificate(tmp_path_factory.mktemp("tls"))
    with serving(certificate) as judge:
        with warnings.catch_warnings(record=True) as unclosed:
            warnings.simplefilter("always", ResourceWarning)
            with pytest.raises(InputError, match="CERTIFICATE_VERIFY_FAILED"):
                make(base_url=judge.url).check()
            gc.collect()
        assert [str(one.message) for one in unclosed] == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        tls.cache_clear()
        try:
            client = make(base_url=judge.url, timeout_seconds=0.5)
            client.check()
            judge.reply = lambda _: "x" * 60_000
            judge.faults.append("drip body")
            assert len(client.ask(HELLO, max_tokens=5).text) == 60_000
            assert client.retries == 1
        finally:
            tls.cache_clear()


def test_clients_share_a_budget(server: JudgeServer, make: Make, tmp_path: Path):
    budget = Budget(3, None)
    config = make().config
    for number in range(3):
        client = JudgeClient(config, tmp_path, budget=budget)
        assert client.ask(chat(str(number)), max_tokens=5).text == f"echo {number}"
        client.close()
    last = JudgeClient(config, tmp_path, budget=budget)
    with pytest.raises(BudgetExceeded, match="3 of 3 calls"):
        last.ask(HELLO, max_tokens=5)
    assert last.ask(chat("0"), max_tokens=5).text == "echo 0", "from the cache"
    last.close()
    assert len(server.chats) == budget.calls == 3


def test_stop_ends_waiting_and_sends_nothing_more(server: JudgeServer, make: Make):
    server.always = "500"
    client = make(backoff_seconds=60)
    threading.Timer(0.3, client.stop).start()
    started = time.monotonic()
    with pytest.raises(JudgeUnavailable, match="interrupted"):
        client.ask(HELLO, max_tokens=5)
    assert time.monotonic() - started < 10
    assert len(server.chats) == 1


def test_the_key_is_nowhere(
    server: JudgeServer,
    make: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.DEBUG)
    client = make(attempts=2)
    server.reply = lambda _: f"your key is {KEY}"
    assert client.ask(HELLO, max_tokens=5).text == "your key is ***"
    told: list[str] = [repr(client.config), str(vars(client.config))]
    for fault in ("500", "401"):
        server.always = fault
        with pytest.raises(JudgeError) as caught:
            client.ask(chat(fault), max_tokens=5)
        assert "***" in str(caught.value)
        told.append("".join(traceback.format_exception(caught.value)))
    with pytest.raises(InputError) as refused:
        make(model="unlisted").check()
    told.append("".join(traceback.format_exception(refused.value)))
    assert "refuses the key" in str(refused.value)
    told.append(caplog.text)
    told += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(told) > 6
    assert not [text for text in told if KEY in text]


def test_check_passes_with_the_model_in_the_list_and_sends_no_chat(
    server: JudgeServer, make: Make
):
    make().check()
    assert not server.chats


@pytest.mark.parametrize("models", [None, ["other"]])
def test_check_asks_the_model_itself_where_the_list_does_not_tell(
    server: JudgeServer, make: Make, models: list[str] | None
):
    server.models = models
    make().check()
    assert server.chats[0]["max_tokens"] == 1
    server.always = "500"
    make().check()
    server.always = "404"
    with pytest.raises(InputError, match="does not serve the model 'judge'"):
        make().check()


def test_check_refuses_an_absent_server_within_seconds(
    make: Make, monkeypatch: pytest.MonkeyPatch
):
    started = time.monotonic()
    with pytest.raises(InputError, match="No judge answers at http://127.0.0.1:9/v1"):
        make(base_url="http://127.0.0.1:9/v1").check()
    assert time.monotonic() - started < 5
    monkeypatch.setenv(KEY_VARIABLE, " ")
    with pytest.raises(InputError, match=KEY_VARIABLE):
        make()


def test_address_comes_from_the_setting_then_the_environment(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://judge.example/v1/")
    assert JudgeConfig(model="m").url == "http://judge.example/v1"
    assert JudgeConfig(model="m", base_url="http://a/v1").url == "http://a/v1"
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert JudgeConfig(model="m").url == "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "No judge model"),
        ({"concurrency": 0}, "concurrency=0; expected at least 1"),
        ({"attempts": True}, "attempts=True; expected a whole number"),
        ({"max_calls": 0}, "max_calls=0"),
        ({"max_tokens": 1.5}, "max_tokens=1.5; expected a whole number"),
        ({"timeout_seconds": -1}, "timeout_seconds=-1; expected above 0"),
        (
            {"timeout_seconds": float("inf")},
            "timeout_seconds=inf; expected a finite number",
        ),
        ({"temperature": "hot"}, "temperature='hot'; expected a number"),
        ({"model": 4}, "model=4; expected text"),
        ({"base_url": 80}, "base_url=80; expected text"),
        ({"base_url": "127.0.0.1:8000"}, "expected an address"),
        ({"base_url": "ftp://a/v1"}, "expected an address"),
        ({"base_url": ""}, "base URL is empty"),
        ({"base_url": "/"}, "base URL is empty"),
        ({"base_url": "http://a:b/v1"}, "expected an address"),
        ({"base_url": "http://a:99999/v1"}, "expected an address"),
        ({"base_url": "http://[::1/v1"}, "expected an address"),
        ({"base_url": "http://a b/v1"}, "expected an address"),
        ({"base_url": "http://a\n/v1"}, "expected an address"),
        ({"base_url": "http://\u00e4/v1"}, "expected an address"),
        ({"base_url": "http:///v1"}, "expected an address"),
        ({"timeout_seconds": 0}, "timeout_seconds=0; expected above 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        chosen: dict[str, Any] = {"model": "m", **settings}
        JudgeConfig(**chosen)


@pytest.mark.parametrize(
    "secret", ["http://me:pw-secret@a/v1", "http://a/v1?k=pw-secret"]
)
def test_secrets_in_the_address_are_refused_and_not_repeated(secret: str):
    with pytest.raises(InputError) as caught:
        JudgeConfig(model="m", base_url=secret)
    assert "pw-secret" not in str(caught.value)


def test_replies_on_disk_are_strict_json(make: Make, tmp_path: Path):
    reply = make().ask(HELLO, max_tokens=5)
    (file,) = tmp_path.rglob(f"{reply.key}.json")
    assert json.loads(file.read_text())["text"] == reply.text
