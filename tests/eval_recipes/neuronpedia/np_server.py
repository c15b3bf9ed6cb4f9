"""Neuronpedia on loopback: its REST routes with their limits, and faults on demand."""

from __future__ import annotations

import json
import math
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "np-test-key-0123456789"
FAULTS = {"400": 400, "401": 401, "413": 413, "429": 429, "500": 500}


class Refused(Exception):
    """A body that the schema refuses."""


@dataclass
class NeuronpediaServer:
    """
    What the server holds and what befalls the next requests.

    Attributes:
        faults: one for each of the next uploads: a status, "cut" before it is stored, "cut
            after" it is stored, or "" for none.
        features: by model and source, then by index.
    """

    url: str = ""
    faults: deque[str] = field(default_factory=deque)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    sets: set[tuple[str, str]] = field(default_factory=set)
    features: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    """Features of each upload that was stored."""
    unknown: list[str] = field(default_factory=list)
    """Routes that there are not; expected to stay empty."""

    def model_new(self, body: dict[str, Any]) -> tuple[int, Any]:
        require(set(body) <= {"id", "layers", "displayName", "url"}, "model keys")
        require(
            re.fullmatch("[a-z][a-z0-9.-]{0,30}[a-z0-9]", body["id"]) is not None,
            "Name must contain only lowercase letters, digits, hyphens, and periods",
        )
        require(type(body["layers"]) is int and 1 <= body["layers"] <= 127, "layers")
        require(1 <= len(body.get("displayName", "x")) <= 64, "displayName")
        if body["id"] in self.models:
            return 400, {"error": "Model already exists"}
        self.models[body["id"]] = body
        return 200, body

    def set_new(self, body: dict[str, Any]) -> tuple[int, Any]:
        require(set(body) <= {"name", "modelId", "description", "url"}, "set keys")
        name = body["name"]
        pattern = "[a-z][a-z0-9-]*[a-z0-9]|[a-z0-9]"
        require(re.fullmatch(pattern, name) is not None and "--" not in name, name)
        require(len(body.get("description") or "") <= 128, "description")
        if body["modelId"] not in self.models:
            return 400, {"error": "Model not found"}
        if (body["modelId"], name) in self.sets:
            return 400, {"error": "Source set name already exists for this model."}
        self.sets.add((body["modelId"], name))
        for layer in range(self.models[body["modelId"]]["layers"]):
            self.features[f"{body['modelId']}/{layer}-{name}"] = {}
        return 200, {"name": name}

    def upload(self, body: dict[str, Any]) -> tuple[int, Any]:
        require(set(body) == {"modelId", "source", "features"}, "upload keys")
        place = f"{body['modelId']}/{body['source']}"
        if place not in self.features:
            return 500, "Source set not found."
        features = body["features"]
        require(1 <= len(features) <= 128, "features must have 1 to 128 items")
        for feature in features:
            require_feature(feature)
        indices = [feature["index"] for feature in features]
        require(len(set(indices)) == len(indices), "All indexes must be unique.")
        again = set(indices) & set(self.features[place])
        require(not again, f"sent twice: {sorted(again)[:5]}")
        self.features[place].update(zip(indices, features, strict=True))
        self.sizes.append(len(features))
        return 200, {"message": f"{len(features)} features created."}

    def get(self, path: str) -> tuple[int, Any]:
        place, _, index = path.rpartition("/")
        found = self.features.get(place, {}).get(int(index))
        return (200, found) if found else (404, {"error": "Not found"})


def require(fine: bool, what: str) -> None:
    if not fine:
        raise Refused(what)


def require_feature(feature: dict[str, Any]) -> None:
    """The schema of upload-batch, as the server's source has it."""
    known = {"index", "density", "topLogits", "bottomLogits"}
    known |= {"explanations", "activations"}
    require(set(feature) <= known, f"keys {sorted(set(feature) - known)}")
    require(type(feature["index"]) is int, "index")
    require(0 <= feature["index"] <= 10_000_000, "index")
    require(0 <= feature.get("density", 0) <= 1, "density")
    for name in ("topLogits", "bottomLogits"):
        items = feature.get(name) or []
        require(len(items) <= 20, name)
        for item in items:
            require(bool(item["token"]) and is_number(item["value"]), name)
    for item in feature.get("explanations", []):
        length = len(item["text"].encode("utf-16-le")) // 2
        require(1 <= length <= 512, "explanation")
        require(item.get("methodName") is None, "Invalid Explanation Method Names")
        require(item.get("modelName") is None, "Invalid Explanation Model Names")
    require(len(feature["activations"]) >= 1, "activations must have 1 item")
    for item in feature["activations"]:
        tokens, values = item["tokens"], item["values"]
        require(1 <= len(tokens) <= 1024 and all(tokens), "tokens")
        require(len(values) == len(tokens), "lengths differ")
        require(all(map(is_number, values)), "values")
        require("\0" not in "".join(tokens), "NUL")
        require(0 <= item.get("quantileFraction", 0) <= 1, "quantileFraction")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(size))
        held = self.server.held
        routes = {
            "/api/model/new": held.model_new,
            "/api/source-set/new": held.set_new,
            "/api/feature/upload-batch": held.upload,
        }
        if self.path not in routes:
            held.unknown.append(self.path)
            self.answer(404, {"error": "no such route"})
            return
        is_upload = self.path.endswith("upload-batch")
        fault = held.faults.popleft() if is_upload and held.faults else ""
        if self.headers.get("X-Api-Key") != KEY:
            fault = "401"
        if fault in FAULTS:
            # a server that repeats the key must not make us print it
            self.answer(FAULTS[fault], {"error": f"no, {KEY}"})
            return
        if fault == "cut":
            self.close_connection = True
            return
        try:
            status, said = routes[self.path](body)
        except Refused as error:
            status, said = 400, {"error": str(error)}
        if fault == "cut after":
            self.close_connection = True
            return
        self.answer(status, said)

    def do_GET(self) -> None:
        found = re.fullmatch(r"/api/feature/(.+/.+/\d+)", self.path)
        if found is None:
            self.server.held.unknown.append(self.path)
            self.answer(404, {"error": "no such route"})
            return
        self.answer(*self.server.held.get(found[1]))

    def answer(self, status: int, said: Any) -> None:
        content = json.dumps(said).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "60")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    held: NeuronpediaServer


@contextmanager
def serve() -> Iterator[NeuronpediaServer]:
    """A running server; at the end no request may have gone to a route that there is not."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.held = NeuronpediaServer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.held
        finally:
            server.shutdown()
            thread.join(10)
    assert server.held.unknown == []
