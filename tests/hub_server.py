"""A model hub on loopback: strict, in memory, of the standard library alone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

OWNER = "lab"
TOKEN = "hf_loopbackToken0123456789"
READ_TOKEN = "hf_readOnlyToken0123456789"
LARGE = (".safetensors", ".parquet", ".pt")
"""Endings of the files that the hub stores as large files."""


@dataclass
class Commit:
    oid: str
    files: dict[str, bytes]
    title: str


@dataclass
class Repository:
    private: bool
    commits: list[Commit] = field(default_factory=list[Commit])
    branches: dict[str, str] = field(default_factory=dict[str, str])

    def find(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision, revision)
        return next((commit for commit in self.commits if commit.oid == oid), None)

    def add(self, branch: str, files: dict[str, bytes], title: str) -> Commit:
        """Append a commit with these files to a branch."""
        text = repr([branch, len(self.commits), title, sorted(files.items())])
        commit = Commit(hashlib.sha1(text.encode()).hexdigest(), files, title)
        self.commits.append(commit)
        self.branches[branch] = commit.oid
        return commit


@dataclass
class Fault:
    """An answer in place of the right one, ``times`` times."""

    status: int
    """HTTP status; 0 cuts the connection without an answer."""
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict[str, str])
    words: str = "no"


class Hub:
    """
    The hub's content, its faults, and what it was asked.

    Attributes:
        repositories: by ``owner/name``.
        large: contents of large files by SHA-256.
        faults: by route.
        asked: how often each route was asked.
        wrong: requests that no hub would get; the test must find none.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.faults: dict[str, Fault] = {}
        self.asked: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.url = ""
        self.lock = threading.Lock()

    def put(self, name: str, files: dict[str, bytes], *, private: bool = False) -> str:
        """Commit files to ``main`` of a repository, which is made; return the commit."""
        repository = self.repositories.setdefault(name, Repository(private))
        head = repository.find("main")
        kept = head.files if head else {}
        return repository.add("main", {**kept, **files}, "by hand").oid

    def next_fault(self, route: str) -> Fault | None:
        with self.lock:
            self.asked[route] += 1
            fault = self.faults.get(route)
            if fault is not None:
                fault.times -= 1
                if fault.times == 0:
                    del self.faults[route]
            return fault


_R = r"(?P<name>[\w.-]+/[\w.-]+)"
_ROUTES = [
    ("POST", "create", r"/api/repos/create"),
    ("POST", "card", r"/api/validate-yaml"),
    ("GET", "info", rf"/api/models/{_R}(?:/revision/(?P<revision>[^/]+))?"),
    ("GET", "tree", rf"/api/models/{_R}/tree/(?P<revision>[^/]+)"),
    ("POST", "branch", rf"/api/models/{_R}/branch/(?P<revision>[^/]+)"),
    ("POST", "modes", rf"/api/models/{_R}/preupload/(?P<revision>[^/]+)"),
    ("POST", "commit", rf"/api/models/{_R}/commit/(?P<revision>[^/]+)"),
    ("POST", "batch", rf"/{_R}\.git/info/lfs/objects/batch"),
    ("PUT", "large", r"/large/(?P<oid>[0-9a-f]{64})"),
    ("HEAD", "head", rf"/{_R}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
    ("GET", "file", rf"/{_R}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
]
"""Method, name and path of every route; any other request is wrong."""
_READS = ("info", "tree", "head", "file")


class _Stop(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, words: str, code: str = "", **more: Any) -> None:
        super().__init__(words)
        self.status, self.words, self.code, self.more = status, words, code, more


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for method, route, pattern in _ROUTES:
            match = re.fullmatch(pattern, path)
            if method == self.command and match is not None:
                break
        else:
            self.hub.wrong.append(f"{self.command} {self.path}")
            self._json(500, {"error": "no such route"})
            return
        fault = self.hub.next_fault(route)
        if fault is not None and fault.status == 0:
            self.close_connection = True
            return
        try:
            if fault is not None:
                raise _Stop(fault.status, fault.words, **fault.headers)
            values = {k: unquote(v) for k, v in match.groupdict().items() if v}
            if route != "large":
                # an address for a large file carries its own right
                self._require_token(route, values.get("name"))
            getattr(self, f"_{route}")(body, **values)
        except AssertionError as error:
            self.hub.wrong.append(f"{route}: {error}")
            self._json(500, {"error": "wrong request"})
        except _Stop as stop:
            headers = {k.replace("_", "-"): str(v) for k, v in stop.more.items()}
            if stop.code:
                headers["X-Error-Code"] = stop.code
            headers["X-Error-Message"] = stop.words
            extra = {"url": headers.pop("url")} if "url" in headers else {}
            self._json(stop.status, {"error": stop.words, **extra}, headers)

    do_GET = do_POST = do_PUT = do_HEAD = _serve

    # Rights

    def _require_token(self, route: str, name: str | None) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        known = token in (TOKEN, READ_TOKEN)
        if token and not known:
            raise _Stop(401, "Invalid credentials in Authorization header")
        if route in _READS:
            repository = self.hub.repositories.get(name or "")
            if repository is None or (repository.private and not known):
                raise _Stop(
                    404 if known else 401, "Repository not found", "RepoNotFound"
                )
        elif not known:
            raise _Stop(401, "Invalid username or password.")
        elif token != TOKEN:
            raise _Stop(403, "You need write access")

    def _repository(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None:
            raise _Stop(404, "Repository not found", "RepoNotFound")
        return repository

    def _at(self, name: str, revision: str) -> Commit:
        commit = self._repository(name).find(revision)
        if commit is None:
            raise _Stop(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # Routes

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        assert set(asked) <= {"name", "organization", "visibility", "type"}, asked
        name = f"{asked['organization']}/{asked['name']}"
        address = f"{self.hub.url}/{name}"
        if asked["organization"] != OWNER:
            raise _Stop(
                403, f"You don't have the rights to create a model under {name}"
            )
        if name in self.hub.repositories:
            raise _Stop(409, "You already created this model repo", url=address)
        repository = Repository(asked.get("visibility") == "private")
        repository.add("main", {".gitattributes": b""}, "initial commit")
        self.hub.repositories[name] = repository
        self._json(200, {"url": address, "name": name})

    def _card(self, body: bytes) -> None:
        asked = json.loads(body)
        _, front, text = asked["content"].split("---\n", 2)
        facts = yaml.safe_load(front)
        assert asked["repoType"] == "model" and text.strip(), asked
        if not isinstance(facts.get("license"), str):
            raise _Stop(400, "license is required")
        self._json(200, {"errors": [], "warnings": []})

    def _info(self, _: bytes, name: str, revision: str = "main") -> None:
        commit = self._at(name, revision)
        private = self._repository(name).private
        files = [{"rfilename": path} for path in sorted(commit.files)]
        facts = {"id": name, "modelId": name, "sha": commit.oid, "private": private}
        self._json(200, {**facts, "siblings": files, "tags": []})

    def _tree(self, _: bytes, name: str, revision: str) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        assert asked["recursive"] == ["true"], asked
        assert asked.get("expand", ["false"]) == ["false"], asked
        files = self._at(name, revision).files
        folders = {str(p) for path in files for p in PurePosixPath(path).parents[:-1]}
        entries = [{"type": "directory", "path": f, "oid": "0" * 40} for f in folders]
        entries += [_tree_entry(path, content) for path, content in files.items()]
        self._json(200, sorted(entries, key=lambda entry: entry["path"]))

    def _branch(self, _: bytes, name: str, revision: str) -> None:
        repository = self._repository(name)
        repository.branches[revision] = repository.branches["main"]
        self._json(200, {})

    def _modes(self, body: bytes, name: str, revision: str) -> None:
        files = self._at(name, revision).files
        answers = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            assert set(file) == {"path", "sample", "size"}, file
            is_large = path.endswith(LARGE)
            answers.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if is_large else "regular",
                    "shouldIgnore": False,
                    "oid": _oid(path, files[path]) if path in files else None,
                }
            )
        self._json(200, {"files": answers})

    def _batch(self, body: bytes, name: str) -> None:
        asked = json.loads(body)
        assert asked["operation"] == "upload" and asked["hash_algo"] == "sha256", asked
        self._repository(name)
        objects = []
        for one in asked["objects"]:
            address = f"{self.hub.url}/large/{one['oid']}?size={one['size']}"
            actions = {"actions": {"upload": {"href": address}}}
            objects.append({**one, **({} if one["oid"] in self.hub.large else actions)})
        self._json(200, {"transfer": "basic", "objects": objects})

    def _large(self, body: bytes, oid: str) -> None:
        size = int(urlsplit(self.path).query.partition("=")[2])
        if hashlib.sha256(body).hexdigest() != oid or len(body) != size:
            self.hub.wrong.append(f"large file {oid} has other content")
            raise _Stop(400, "content does not match")
        self.hub.large[oid] = body
        self._json(200, {})

    def _commit(self, body: bytes, name: str, revision: str) -> None:
        head = self._at(name, revision)
        files, title = dict(head.files), ""
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                title = value["summary"]
            elif item["key"] == "file":
                assert value["encoding"] == "base64", value["encoding"]
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise _Stop(400, f"{value['path']} was not uploaded")
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                self.hub.wrong.append(f"operation {item['key']}")
        commit = self._repository(name).add(revision, files, title)
        address = f"{self.hub.url}/{name}/commit/{commit.oid}"
        self._json(200, {"commitOid": commit.oid, "commitUrl": address})

    def _head(self, _: bytes, name: str, revision: str, path: str) -> None:
        content, headers = self._resolved(name, revision, path)
        self._send(200, content, headers)

    _file = _head

    def _resolved(
        self, name: str, revision: str, path: str
    ) -> tuple[bytes, dict[str, str]]:
        commit = self._at(name, revision)
        if path not in commit.files:
            more = {"X-Repo-Commit": commit.oid}
            raise _Stop(404, "Entry not found", "EntryNotFound", **more)
        content = commit.files[path]
        etag = f'"{_oid(path, content)}"'
        return content, {"X-Repo-Commit": commit.oid, "ETag": etag}

    # Answers

    def _json(
        self, status: int, value: Any, headers: dict[str, str] | None = None
    ) -> None:
        content = json.dumps(value).encode()
        self._send(
            status, content, {"Content-Type": "application/json", **(headers or {})}
        )

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _tree_entry(path: str, content: bytes) -> dict[str, Any]:
    """A file in the list of a commit; of a large file git has a pointer."""
    entry = {"type": "file", "path": path, "size": len(content)}
    if not path.endswith(LARGE):
        return {**entry, "oid": _git_oid(content)}
    oid = _oid(path, content)
    version = "https://git-lfs.github.com/spec/v1"
    pointer = f"version {version}\noid sha256:{oid}\nsize {len(content)}\n".encode()
    lfs = {"oid": oid, "size": len(content), "pointerSize": len(pointer)}
    return {**entry, "oid": _git_oid(pointer), "lfs": lfs}


def _oid(path: str, content: bytes) -> str:
    """Id of a file's content: SHA-256 of a large file, else git's."""
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return _git_oid(content)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(between: Callable[[str], None] = lambda _: None) -> Iterator[Hub]:
    """
    Serve on a free port of this machine until the block ends.

    ``between`` is called with the address before the server has a thread, for example to fork.
    """
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    between(hub.url)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}
    )
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
