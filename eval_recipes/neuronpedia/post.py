"""Upload of latents to a Neuronpedia server by its REST interface."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPMessage,
    HTTPSConnection,
)
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from eval_recipes.neuronpedia.export import KIND
from eval_recipes.neuronpedia.limits import MOST_FEATURES, feature, to_json
from eval_recipes.neuronpedia.rows import description, layers
from eval_recipes.neuronpedia.source import Source
from saereg_plugin.errors import InputError
from saereg_plugin.files import read_json, write_json
from saereg_plugin.owned_folder import OwnedFolder, open_owned

KEY = "NEURONPEDIA_API_KEY"
"""Variable of the environment with the user's key."""
POSTED = "posted.json"
"""File in the export folder that lists what a server has."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TIMEOUT = 120
_MOST_BYTES = 1 << 24
_SHOWN = 300
_AGAIN = "run the same command again; it goes on where it stopped."
_REMEDIES = {
    "model": f"Name the model otherwise with --model-id, or make it on the server and {_AGAIN}",
    "source-set": "Export a release of another name, or name a model of the server with --model-id.",
    "feature": "The server may be older or newer than the form that is sent: update it, or leave "
    f"the SAE out with --sae-id, and {_AGAIN}",
}
"""What to do about a refusal, by the first part of the path."""


@dataclass(frozen=True)
class Server:
    """
    A Neuronpedia server and the user's key.

    Raises:
        InputError: for an address that is none, that has a password or a query, or that would
            send the key unencrypted over a network.
    """

    url: str
    key: str

    def __post_init__(self) -> None:
        if any(mark in self.url for mark in "@?#"):
            # they may hold secrets: the address is printed and stored, this one is not
            raise InputError(
                "--post has a user's name, a password, a query or a fragment; expected only an "
                f"address such as 'http://localhost:3000'. Set the key in {KEY}."
            )
        url = _parsed(self.url)
        if url is None:
            raise InputError(
                f"--post is {self.url!r}; expected an address such as 'http://localhost:3000'."
            )
        if url.scheme == "http" and url.hostname not in _LOOPBACK:
            raise InputError(
                f"--post is {self.url!r}, to which the key would go unencrypted; expected https, "
                "or a server on this machine such as 'http://localhost:3000'."
            )

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """
        Send one request below ``/api``; return the status and the JSON of the answer.

        Raises:
            InputError: for an answer that no later request can mend, or none at all.
        """
        try:
            status, headers, content = self._send(method, path, body)
        except (OSError, HTTPException) as error:
            raise InputError(
                f"The Neuronpedia server {self.url!r} gave no answer to {path!r} "
                f"({type(error).__name__}: {self._hidden(str(error))}). See that it runs, and run "
                "the same command again; it goes on where it stopped."
            ) from error
        try:
            answer = json.loads(content)
        except ValueError:
            answer = content.decode("utf-8", "replace")
        return status, self._accepted(status, headers, answer, path)

    def _send(
        self, method: str, path: str, body: Any
    ) -> tuple[int, HTTPMessage, bytes]:
        url = self._parts
        kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
        connection = kind(url.hostname or "", url.port, timeout=_TIMEOUT)
        base = url.path.rstrip("/").removesuffix("/api")
        headers = {"X-Api-Key": self.key, "Content-Type": "application/json"}
        try:
            content = None if body is None else to_json(body).encode()
            connection.request(method, f"{base}/api/{path}", content, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read(_MOST_BYTES)
        finally:
            connection.close()

    def _accepted(
        self, status: int, headers: HTTPMessage, answer: Any, path: str
    ) -> Any:
        """Return an answer that the caller can judge: a success, a 400 or a 404."""
        if status in (200, 201, 400, 404):
            return answer
        wait = headers.get("Retry-After")
        remedy = {
            401: f"The key is refused; set {KEY} to the one under Settings of that server.",
            403: f"The key may not do this; set {KEY} to that of the user who made the set.",
            413: "The request is too large for it; run the command with a smaller --batch.",
            429: f"It limits requests; run the same command again in {wait or 'some'} seconds, "
            "and it goes on where it stopped.",
        }.get(status, "Run the same command again; it goes on where it stopped.")
        said = self.said(answer)
        raise InputError(
            f"The Neuronpedia server {self.url!r} answers {path!r} with {status} ({said}). {remedy}"
        )

    def said(self, answer: Any) -> str:
        """Return the words of an answer in one line, without the key."""
        words = answer.get("error", answer) if isinstance(answer, dict) else answer
        text = self._hidden(" ".join(str(words).split()))
        return text[:_SHOWN] or "no words"

    def _hidden(self, text: str) -> str:
        return text.replace(self.key, "***")


def _parsed(url: str) -> SplitResult | None:
    """Return the parts of an address that requests can use, or None."""
    try:
        parts = urlsplit(url)
        # a port that is no number is found only when it is read
        usable = (
            parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        )
    except ValueError:
        return None
    printable = url.isascii() and url.isprintable() and " " not in url
    return parts if usable and printable else None


def open_server(url: str) -> Server:
    """
    Return a server with the key of the environment.

    Raises:
        InputError: without a key, or for an address that cannot be used.
    """
    key = os.environ.get(KEY, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise InputError(
            f"The environment variable {KEY} has no usable key; expected the key under Settings "
            "of the Neuronpedia server. Set it, and run the command again."
        )
    return Server(url, key)


@dataclass(frozen=True)
class Posted:
    """What one SAE's upload did."""

    source: Source
    sent: int
    """Latents sent now."""
    kept: int
    """Latents that the server had from an earlier run."""


def post_sources(
    sources: Sequence[Source], server: Server, out: Path, *, batch: int = MOST_FEATURES
) -> Iterator[Posted]:
    """
    Send the latents of each SAE to a server; yield when an SAE is complete.

    ``posted.json`` in ``out`` records what the server confirmed, so that the same call goes
    on after an error and sends nothing twice.

    Raises:
        InputError: if the server refuses or does not answer, a latent is over a limit, or
            the server has an SAE with other content.
    """
    if not 1 <= batch <= MOST_FEATURES:
        raise InputError(
            f"--batch is {batch}; expected 1 to {MOST_FEATURES} latents, which Neuronpedia takes "
            "in one request."
        )
    owned = open_owned(out, KIND)
    owned.claim([POSTED])
    for source in sources:
        yield _Upload(source, server, owned, batch).run()


class _Upload:
    """Upload of one SAE; ``state`` is its part of ``posted.json``."""

    def __init__(
        self, source: Source, server: Server, owned: OwnedFolder, batch: int
    ) -> None:
        self.source, self.server, self.batch = source, server, batch
        self.path = owned.path / POSTED
        self.name = f"{server.url.rstrip('/')} {source.id}"
        self.content = self._checked_content()

    def run(self) -> Posted:
        """Send what the server does not have yet."""
        state = self._state()
        self._make_model()
        self._make_set(state)
        self._settle(state)
        kept = len(state["sent"])
        known = set(state["sent"])
        left = [index for index in self.source.living if index not in known]
        for start in range(0, len(left), self.batch):
            chunk = left[start : start + self.batch]
            self._save({**state, "pending": chunk})
            self._send([self._feature(index) for index in chunk])
            state["sent"] += chunk
            self._save({**state, "pending": []})
        return Posted(self.source, len(left), kept)

    def _feature(self, index: int) -> dict[str, Any]:
        return feature(self.source, self.source.latent(index))

    def _checked_content(self) -> str:
        """Return a hash of all latents; refuse a latent over a limit before any is sent."""
        digest = hashlib.sha256()
        for index in self.source.living:
            # one at a time: all would fill the memory
            digest.update(to_json(self._feature(index)).encode() + b"\n")
        return digest.hexdigest()

    def _state(self) -> dict[str, Any]:
        """Return what the server has; refuse other content."""
        found = self._saved().get(self.name)
        fresh = {"content": self.content, "sent": [], "pending": []}
        if found is None:
            return fresh
        if found["content"] != self.content:
            raise InputError(
                f"{str(self.source.id)!r} was sent to {self.server.url!r} with other content, which "
                "Neuronpedia does not replace. Delete that set there and the file "
                f"{str(self.path)!r}, or export a release of another name."
            )
        return found

    def _make_model(self) -> None:
        body = {
            "id": self.source.id.model,
            "layers": layers(self.source),
            "displayName": self.source.id.model,
        }
        self._make("model/new", body, known="already exists")

    def _make_set(self, state: Mapping[str, Any]) -> None:
        """Make the set; refuse one that is not of this upload."""
        others = self._saved()
        begun = self.name in others
        if not begun:
            # before it is asked for: the answer may not come
            self._save(state)
        body = {
            "name": self.source.id.set_name,
            "modelId": self.source.id.model,
            "description": description(self.source),
        }
        if self._make("source-set/new", body, known="already exists") or begun:
            return
        write_json(self.path, others)
        raise InputError(
            f"The server {self.server.url!r} has a set {self.source.id.set_name!r} that this "
            "folder did not send. Delete it there, or export a release of another name."
        )

    def _make(self, path: str, body: Mapping[str, Any], *, known: str) -> bool:
        """Make a model or set; return False if it is there."""
        status, answer = self.server.ask("POST", path, body)
        if status == 400 and known in self.server.said(answer):
            return False
        self._require(status, answer, path)
        return True

    def _settle(self, state: dict[str, Any]) -> None:
        """Ask whether the batch that got no answer arrived; a batch arrives whole."""
        if not state["pending"]:
            return
        first = state["pending"][0]
        where = f"{self.source.id.model}/{self.source.id.source}/{first}"
        path = f"feature/{quote(where)}"
        status, answer = self.server.ask("GET", path)
        if status != 404:
            self._require(status, answer, path)
            state["sent"] += state["pending"]
        state["pending"] = []
        self._save(state)

    def _send(self, chunk: Sequence[Mapping[str, Any]]) -> None:
        body = {
            "modelId": self.source.id.model,
            "source": self.source.id.source,
            "features": chunk,
        }
        path = "feature/upload-batch"
        self._require(*self.server.ask("POST", path, body), path)

    def _require(self, status: int, answer: Any, path: str) -> None:
        if status not in (200, 201):
            raise InputError(
                f"The Neuronpedia server {self.server.url!r} refuses {path!r} with {status}: "
                f"{self.server.said(answer).rstrip('.')}. {_REMEDIES[path.partition('/')[0]]}"
            )

    def _saved(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {}
        remedy = "Remove it, and the sets it names from the server, to send them again."
        found = read_json(self.path, remedy=remedy)
        if not isinstance(found, dict) or not all(map(_is_state, found.values())):
            raise InputError(f"File {str(self.path)!r} is damaged. {remedy}")
        return found

    def _save(self, state: Mapping[str, Any]) -> None:
        write_json(self.path, {**self._saved(), self.name: state})


def _is_state(value: Any) -> bool:
    lists = ("sent", "pending")
    return (
        isinstance(value, dict)
        and isinstance(value.get("content"), str)
        and all(isinstance(value.get(name), list) for name in lists)
    )
