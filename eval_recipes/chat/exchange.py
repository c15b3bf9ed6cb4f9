"""HTTP requests to a chat model's server, bounded in time and bytes."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from eval_recipes.chat.connection import Deadline, open_pool
from eval_recipes.chat.errors import (
    AttemptError,
    DeadlinePassed,
    GarbledReply,
    Redirected,
    ReplyTooLong,
    StatusError,
    Unreachable,
)
from eval_recipes.chat.messages import most_bytes
from eval_recipes.chat.options import KEY_VARIABLE, JudgeConfig, read_account
from saereg_plugin.errors import InputError, suggest

_MOST_OF_ERROR = 1 << 16
_MOST_OF_HEAD = 1 << 20
_BROKEN = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)


class _Body:
    """The body of a request, which notes when its sending begins."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.begun = False

    def __iter__(self) -> Iterator[bytes]:
        self.begun = True
        yield self.content


class Server:
    """
    An OpenAI-compatible server.

    Redirects are not followed: prompts go only to the address that the user gave, ``url`` up to
    and with ``/v1``. The key is sent with every request.
    """

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._headers = {
            "Host": urlsplit(url).netloc,
            "Authorization": f"Bearer {key}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "User-Agent": "saereg-plugin",
            **read_account(),
        }

    def get(self, path: str, *, deadline: Deadline, max_bytes: int) -> Any:
        """Return the JSON at ``path``; raises as ``post`` does."""
        return self._exchange("GET", path, None, deadline, max_bytes)

    def post(self, path: str, value: Any, *, deadline: Deadline, max_bytes: int) -> Any:
        """
        Send JSON to a path below the server's address and return the answer's JSON.

        ``deadline`` bounds the time until the last byte of the answer, which has at most
        ``max_bytes``, decompressed.

        Raises:
            AttemptError: if there is no such answer; ``sent`` says whether the request left.
        """
        body = _Body(json.dumps(value).encode("ascii"))
        try:
            return self._exchange("POST", path, body, deadline, max_bytes)
        except AttemptError as error:
            error.sent = body.begun
            raise

    def _exchange(
        self,
        method: str,
        path: str,
        body: _Body | None,
        deadline: Deadline,
        max_bytes: int,
    ) -> Any:
        url = self.url + path
        most = _MOST_OF_HEAD + max(max_bytes, _MOST_OF_ERROR)
        headers = self._headers
        if body is not None:
            headers = {
                **headers,
                "Content-Type": "application/json",
                "Content-Length": str(len(body.content)),
            }
        try:
            with (
                open_pool(urlsplit(url), deadline, most) as pool,
                pool.stream(
                    method,
                    url,
                    headers=[*headers.items()],
                    content=None if body is None else iter(body),
                ) as response,
            ):
                if not 200 <= response.status < 300:
                    raise self._failure(response)
                content, whole = read_body(response, max_bytes)
        except (OSError, ValueError, *_BROKEN) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from None
        if not whole:
            raise ReplyTooLong(
                f"the reply has more than {max_bytes:,} bytes, the most that one to this "
                "request can have"
            )
        return _parse(content)

    def _failure(self, response: httpcore.Response) -> StatusError | Redirected:
        headers = _headers_of(response)
        place = headers.get("location")
        if 300 <= response.status < 400 and place:
            return Redirected(
                f"it redirects to {_plain_address(self.url, place)}, and prompts go "
                "to no other address than the given one"
            )
        content, _ = read_body(response, _MOST_OF_ERROR)
        message, code = _said(content)
        return StatusError(response.status, message, code, headers)


def read_body(response: httpcore.Response, most: int) -> tuple[bytes, bool]:
    """
    Return at most ``most`` bytes of an answer, decompressed, and whether that is all.

    Never more than these and one chunk are in memory.

    Raises:
        GarbledReply: if the answer is compressed badly, or in a way that was not asked for.
    """
    unpack = _unpacker(_headers_of(response).get("content-encoding", "identity"))
    kept = bytearray()
    for chunk in response.iter_stream():
        try:
            kept += unpack(chunk, most + 1 - len(kept))
        except zlib.error as error:
            raise GarbledReply(f"the reply is badly compressed ({error})") from None
        if len(kept) > most:
            return bytes(kept[:most]), False
    return bytes(kept), True


def _headers_of(response: httpcore.Response) -> dict[str, str]:
    """Return the headers, names in lower case."""
    return {
        name.decode("latin-1").lower(): value.decode("latin-1")
        for name, value in response.headers
    }


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """Return what decompresses a chunk to at most so many bytes."""
    encoding = encoding.strip().lower()
    if encoding == "identity":
        return lambda chunk, most: chunk[:most]
    if encoding in ("gzip", "x-gzip"):
        # 16 more than the largest window: with the head of gzip
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress
    raise GarbledReply(
        f"the reply is compressed by {encoding!r}, which was not asked for"
    )


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise GarbledReply("the reply is no JSON") from None


def _said(content: bytes) -> tuple[str, str]:
    """Return message and code of an error's body, whatever it is."""
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace").strip(), ""
    found = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(found, Mapping):
        code = found.get("code")
        return str(found.get("message", found)), code if isinstance(code, str) else ""
    return str(found), ""


def _plain_address(base: str, place: str) -> str:
    """Return where a redirect leads, without what may be secret in it."""
    try:
        parts = urlsplit(urljoin(base, place))
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"[:200]
    except ValueError:
        return "an address that is none"


_SECONDS = 5.0
_PROBE_SECONDS = 15.0
_MOST_OF_LIST = 1 << 23
"""Bytes of a list of some hundreds of models with a page of text each."""


def check_reachable(
    server: Server,
    config: JudgeConfig,
    signal: threading.Event,
    redacted: Callable[[str], str],
) -> None:
    """
    Ask for the list of models and, if the model is not in it, for one token.

    Servers may lack the list, or know models by more names than it holds. An overloaded server
    passes: the requests themselves wait for it. Neither question takes longer than the config's
    timeout, and ``signal`` ends both. ``redacted`` blanks the key in a text.

    Raises:
        InputError: if nobody answers, or key or model are refused.
    """

    def deadline(seconds: float) -> Deadline:
        return Deadline(min(seconds, config.timeout_seconds), signal)

    def unusable(error: AttemptError) -> InputError:
        return InputError(
            f"No judge answers at {config.url} ({redacted(str(error))}); expected an "
            "OpenAI-compatible server. Start it, or give its address as the judge's base URL."
        )

    def require_key(error: StatusError) -> None:
        if error.status in (401, 403):
            raise InputError(
                f"The judge at {config.url} refuses the key in the environment variable "
                f"{KEY_VARIABLE} ({redacted(str(error))[:300]})."
            ) from None

    names: list[str] = []
    try:
        names = _model_names(
            server.get("/models", deadline=deadline(_SECONDS), max_bytes=_MOST_OF_LIST)
        )
    except (Unreachable, DeadlinePassed, Redirected) as error:
        raise unusable(error) from None
    except StatusError as error:
        require_key(error)
    except AttemptError:
        # the server has no list
        pass
    if config.model in names:
        return
    try:
        server.post(
            "/chat/completions",
            {
                "model": config.model,
                "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": 1,
            },
            deadline=deadline(_PROBE_SECONDS),
            max_bytes=most_bytes(1),
        )
    except (Unreachable, Redirected) as error:
        raise unusable(error) from None
    except StatusError as error:
        require_key(error)
        if error.status == 404 or "model" in error.code:
            raise InputError(
                f"The judge at {config.url} does not serve the model {config.model!r} "
                f"({redacted(str(error))[:300]}). {suggest(config.model, names)}"
            ) from None
    except AttemptError:
        # slow, or not as expected: the requests themselves will tell
        return


def _model_names(page: Any) -> list[str]:
    models = page.get("data") if isinstance(page, dict) else None
    if not isinstance(models, list):
        return []
    return [
        str(model["id"])
        for model in models
        if isinstance(model, dict) and "id" in model
    ]
