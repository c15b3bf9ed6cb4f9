"""One HTTP request and its answer, bounded in time and bytes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urljoin, urlsplit

from eval_recipes.judge.config import read_account
from eval_recipes.judge.connection import BoundedConnection
from eval_recipes.judge.deadline import Deadline
from eval_recipes.judge.errors import (
    GarbledReply,
    Redirected,
    ReplyTooLong,
    StatusError,
    Unreachable,
)

_CHUNK = 1 << 16
_MOST_OF_ERROR = 1 << 16
_MOST_OF_HEAD = 1 << 20


class Server:
    """
    An OpenAI-compatible server.

    Redirects are not followed: prompts go to the address that the user gave and to no other.

    Args:
        url: address up to and with ``/v1``.
        key: sent with every request.
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
        Send JSON and return that of the answer.

        Args:
            path: below the server's address.
            value: what is sent.
            deadline: by when the last byte of the answer must be there.
            max_bytes: most that an answer may have, decompressed.

        Raises:
            AttemptError: if there is no such answer.
        """
        body = json.dumps(value).encode("ascii")
        return self._exchange("POST", path, body, deadline, max_bytes)

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        deadline: Deadline,
        max_bytes: int,
    ) -> Any:
        url = urlsplit(self.url + path)
        most = _MOST_OF_HEAD + max(max_bytes, _MOST_OF_ERROR)
        connection = BoundedConnection(url, deadline, most)
        headers = {**self._headers, **connection.proxy_headers}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, connection.target + url.path, body, headers)
            response = connection.getresponse()
            if not 200 <= response.status < 300:
                raise self._failure(response)
            content, whole = read_body(response, max_bytes)
        except (OSError, HTTPException, UnicodeError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from None
        finally:
            connection.hang_up()
        if not whole:
            raise ReplyTooLong(
                f"the reply has more than {max_bytes:,} bytes, the most that one to this "
                "request can have"
            )
        return _parse(content)

    def _failure(self, response: HTTPResponse) -> StatusError | Redirected:
        headers = {name.lower(): value for name, value in response.getheaders()}
        place = headers.get("location")
        if 300 <= response.status < 400 and place:
            return Redirected(
                f"it redirects to {_plain_address(urljoin(self.url, place))}, and prompts go "
                "to no other address than the given one"
            )
        content, _ = read_body(response, _MOST_OF_ERROR)
        message, code = _said(content)
        return StatusError(response.status, message, code, headers)


def read_body(response: HTTPResponse, most: int) -> tuple[bytes, bool]:
    """
    Return at most ``most`` bytes of an answer, decompressed, and whether that is all.

    No more than that and one chunk are ever in memory.

    Raises:
        GarbledReply: if it is cut short, or compressed in a way that was not asked for.
    """
    unpack = _unpacker(response)
    kept = bytearray()
    while chunk := response.read(_CHUNK):
        try:
            kept += unpack(chunk, most + 1 - len(kept))
        except zlib.error as error:
            raise GarbledReply(f"the reply is badly compressed ({error})") from None
        if len(kept) > most:
            return bytes(kept[:most]), False
    if response.length:
        raise Unreachable(
            f"the last {response.length:,} bytes of the reply are missing"
        )
    return bytes(kept), True


def _unpacker(response: HTTPResponse) -> Callable[[bytes, int], bytes]:
    """Return what decompresses a chunk to at most so many bytes."""
    encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
    if encoding == "identity":
        return lambda chunk, most: chunk[:most]
    if encoding in ("gzip", "x-gzip"):
        # 16 more than the largest window: with the head of gzip
        stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        return stream.decompress
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


def _plain_address(url: str) -> str:
    """Return an address without what may be secret in it."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"[:200]
    except ValueError:
        return "an address that is none"
