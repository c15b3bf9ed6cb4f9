"""A judge on loopback: an OpenAI-compatible HTTP server that answers well, or badly on demand."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Chat = list[dict[str, str]]
KEY = "sk-test-0123456789"
HUGE = 100_000_000


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


@cache
def bomb() -> bytes:
    """Return a good answer of 100 MB, compressed to .1 MB."""
    pack = zlib.compressobj(9, wbits=31)
    part = b"x" * (HUGE // 10)
    body = pack.compress(b'{"choices": [{"message": {"content": "')
    body += b"".join(pack.compress(part) for _ in range(10))
    return body + pack.compress(b'"}}]}') + pack.flush()


class JudgeServer:
    """
    What the server does and what it was asked.

    Attributes:
        faults: what befalls the next requests, one each; the later ones are answered.
        always: what befalls every request.
        list_fault: what befalls every request for the list of models.
        drip: seconds between the bytes of a server that drips.
        usage: what answers say of their tokens, in place of the truth.
        moved: where redirects lead.
        sent: bytes of answers that are too long.
        paths: what was asked for, whole addresses as a proxy gets them.
        accounts: of OpenAI that requests for a chat named.
        reply: maps a chat to the text of the answer.
        models: what ``GET /models`` lists; None if there is no such list.
        pause: seconds each good answer takes.
        counts_tokens: whether answers say how many tokens they took.
        tokens_of: how many tokens a text has; by default its words.
        kill_after: after so many answers every connection is cut without one.
        chats: the bodies of all requests for a chat.
        most_at_once: the largest number of requests that waited for an answer together.
    """

    def __init__(self) -> None:
        self.faults: deque[str] = deque()
        self.always: str | None = None
        self.list_fault: str | None = None
        self.drip = 0.1
        self.usage: Any = None
        self.moved = "http://elsewhere.invalid/v1/chat"
        self.sent = 0
        self.paths: list[str] = []
        self.accounts: list[str | None] = []
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
        self.closing = threading.Event()
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
    counted: bool
    """Whether the request is among ``judge.at_once``."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.judge.paths.append(self.path)
        if self.judge.list_fault is not None:
            self._befall(self.judge.list_fault, {})
            return
        if self.judge.models is None:
            self._error(404, "no such page")
            return
        models = [{"id": name, "object": "model"} for name in self.judge.models]
        self._json({"object": "list", "data": models})

    def do_POST(self) -> None:
        self.judge.paths.append(self.path)
        self.judge.accounts.append(self.headers["OpenAI-Organization"])
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.judge.next_fault(body)
        self.counted = True
        try:
            self._befall(fault, body)
        finally:
            self._count_out()

    def _count_out(self) -> None:
        with self.judge.lock:
            self.judge.at_once -= self.counted
            self.counted = False

    def do_CONNECT(self) -> None:
        """Stand in for a proxy that refuses tunnels."""
        self.judge.paths.append(self.path)
        self._error(403, "no tunnel")

    def _befall(self, fault: str | None, body: dict[str, Any]) -> None:
        try:
            if fault is None:
                time.sleep(self.judge.pause)
                self._answer(body)
            else:
                self._fail(fault, body)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    def _answer(self, body: dict[str, Any]) -> None:
        text = self.judge.reply(body["messages"])
        # before the answer is sent: who has it may send the next request at once
        self._count_out()
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
                "usage": self.judge.usage
                or (usage if self.judge.counts_tokens else None),
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
        elif fault == "no choices, usage":
            usage = {"prompt_tokens": 30, "completion_tokens": 20}
            self._json({"object": "chat.completion", "usage": usage})
        elif fault == "half":
            self._send(200, b'{"choices": [{"mess', "application/json", missing=100)
        elif fault == "cut":
            self.close_connection = True
        elif fault == "redirect":
            self._error(307, "moved", headers={"Location": self.judge.moved})
        elif fault == "drip head":
            self._drip(b"HTTP/1.0 200 OK\r\nX-")
        elif fault == "drip body":
            self._drip(b"HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        elif fault == "long":
            self._flood(200)
        elif fault == "long error":
            self._flood(400)
        elif fault == "gzip":
            headers = {"Content-Encoding": "gzip"}
            self._send(200, bomb(), "application/json", headers=headers)
        elif fault == "brotli":
            self._send(200, b"x", "text/plain", headers={"Content-Encoding": "br"})
        elif fault == "negative chunk":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.wfile.write(b"-1\r\n")
            self._pour(b"x")
        else:
            raise AssertionError(fault)

    def _drip(self, head: bytes) -> None:
        self.wfile.write(head)
        while not self.judge.closing.wait(self.judge.drip):
            self.wfile.write(b" ")

    def _flood(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(HUGE))
        self.end_headers()
        self._pour(b'{"choices": [{"message": {"content": "')

    def _pour(self, head: bytes) -> None:
        """Send text until there is nobody to read it."""
        self.wfile.write(head)
        while self.judge.sent < HUGE:
            self.judge.sent += self.connection.send(b"x" * 65536)

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
def serving(certificate: Path | None = None) -> Iterator[JudgeServer]:
    """Serve on a free port of this machine until the block ends, by TLS with a certificate."""
    judge = JudgeServer()
    handler = type("Handler", (_Handler,), {"judge": judge})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    scheme = "https" if certificate else "http"
    judge.url = f"{scheme}://127.0.0.1:{server.server_port}/v1"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}
    )
    thread.start()
    try:
        yield judge
    finally:
        judge.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
