"""A judge on loopback: an OpenAI-compatible HTTP server that answers well, or badly on demand."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Chat = list[dict[str, str]]
KEY = "sk-test-0123456789"


def good_reply(messages: Chat) -> str:
    """
    Answer autointerp's two prompts, always the same to the same prompt.

    To explain: the first two marked tokens. To score: the examples that hold one of them.
    """
    user = messages[-1]["content"]
    if "activating documents" in user:
        marked = [token.strip().lower() for token in re.findall(r"<<(.+?)>>", user)]
        words = list(dict.fromkeys(token for token in marked if token))[:2]
        return f"This neuron activates on {' or '.join(words)}."
    head, _, examples = user.partition("Here are the examples:")
    words = head.partition("fires on")[2].strip().rstrip(".").split(" or ")
    chosen = [
        line.partition(".")[0]
        for line in examples.strip().splitlines()
        if any(word in line.partition(".")[2].lower() for word in words)
    ]
    return ", ".join(chosen) or "None"


class JudgeServer:
    """
    What the server does and what it was asked.

    Attributes:
        faults: what befalls the next requests, one each; the later ones are answered.
        always: what befalls every request.
        reply: maps a chat to the text of the answer.
        models: what ``GET /models`` lists; None if there is no such list.
        pause: seconds each good answer takes.
        counts_tokens: whether answers say how many tokens they took.
        tokens_of: how many tokens a text has; by default its words.
        kill_after: after so many answers every connection is cut without one.
        chats: the bodies of all requests for a chat.
        most_at_once: the largest number of requests under way together.
    """

    def __init__(self) -> None:
        self.faults: deque[str] = deque()
        self.always: str | None = None
        self.reply: Callable[[Chat], str | None] = good_reply
        self.models: list[str] | None = ["judge", "gpt-4o-mini"]
        self.kill_after: int | None = None
        self.pause = 0.0
        self.counts_tokens = True
        self.tokens_of: Callable[[str], int] = lambda text: len(text.split())
        self.chats: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.answered = 0
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.url = ""

    def next_fault(self, body: dict[str, Any]) -> str | None:
        """Note a request and return what shall befall it."""
        with self.lock:
            self.chats.append(body)
            self.times.append(time.monotonic())
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            if self.kill_after is not None and self.answered >= self.kill_after:
                return "cut"
            return self.faults.popleft() if self.faults else self.always


class _Handler(BaseHTTPRequestHandler):
    judge: JudgeServer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.judge.models is None:
            self._error(404, "no such page")
            return
        models = [{"id": name, "object": "model"} for name in self.judge.models]
        self._json({"object": "list", "data": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.judge.next_fault(body)
        try:
            if fault is None:
                time.sleep(self.judge.pause)
                self._answer(body)
            else:
                self._fail(fault, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with self.judge.lock:
                self.judge.at_once -= 1

    def _answer(self, body: dict[str, Any]) -> None:
        text = self.judge.reply(body["messages"])
        with self.judge.lock:
            self.judge.answered += 1
        prompt = sum(self.judge.tokens_of(m["content"]) for m in body["messages"])
        said = self.judge.tokens_of(text or "")
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": said,
            "total_tokens": prompt + said,
        }
        self._json(
            {
                "id": "chat",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": text},
                    }
                ],
                "usage": usage if self.judge.counts_tokens else None,
            }
        )

    def _fail(self, fault: str, body: dict[str, Any]) -> None:
        key = self.headers.get("Authorization", "")
        if fault.startswith("429"):
            _, _, seconds = fault.partition(":")
            headers = {"Retry-After": seconds} if seconds else {}
            self._error(429, "slow down", headers=headers)
        elif fault == "quota":
            self._error(429, "no money left", code="insufficient_quota")
        elif fault == "500":
            self._error(500, f"internal error of {key}")
        elif fault == "401":
            self._error(401, f"Incorrect API key provided: {key}")
        elif fault == "404":
            self._error(404, "no such model", code="model_not_found")
        elif fault == "400":
            self._error(400, "refused by moderation")
        elif fault == "rename":
            if "max_tokens" in body:
                self._error(400, "use 'max_completion_tokens' instead")
            else:
                self._answer(body)
        elif fault == "slow":
            time.sleep(1.0)
            self._answer(body)
        elif fault == "page":
            self._send(200, b"<html>busy</html>", "text/html")
        elif fault == "no json":
            self._send(200, b"{not json", "application/json")
        elif fault == "no choices":
            self._json({"object": "chat.completion", "choices": []})
        elif fault == "half":
            self._send(200, b'{"choices": [{"mess', "application/json", missing=100)
        elif fault == "cut":
            self.close_connection = True
        else:
            raise AssertionError(fault)

    def _error(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        body = json.dumps({"error": {"message": message, "code": code}}).encode()
        self._send(status, body, "application/json", headers=headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), "application/json")

    def _send(
        self,
        status: int,
        body: bytes,
        kind: str,
        *,
        headers: dict[str, str] | None = None,
        missing: int = 0,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) + missing))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if missing:
            self.close_connection = True


@contextmanager
def serving() -> Iterator[JudgeServer]:
    """Serve on a free port of this machine until the block ends."""
    judge = JudgeServer()
    handler = type("Handler", (_Handler,), {"judge": judge})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}
    )
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
