"""Doctor: devices, hub, caches, and the exit status of the command."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.doctor import checkup


class _Hub(BaseHTTPRequestHandler):
    """Answers HEAD / alone."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    yield address
    server.shutdown()
    server.server_close()


def test_a_hub_that_answers_is_reachable(hub: str) -> None:
    found = checkup.check_hub()
    assert dict(found.rows)["address"] == hub
    assert dict(found.rows)["reachable"] == "yes (status 200)"
    assert found.notes == []


@pytest.mark.usefixtures("offline")
def test_a_hub_out_of_reach_is_a_note_and_no_problem() -> None:
    found = checkup.check_hub()
    assert dict(found.rows)["reachable"] == "no"
    assert found.notes[0].startswith("The hub cannot be reached (")
    assert found.problems == []


def test_the_hub_is_not_asked_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "HF_HUB_OFFLINE" in dict(checkup.check_hub().rows)["reachable"]
    assert checkup.check_hub().notes == []


def test_devices_have_memory_and_compute() -> None:
    found = checkup.check_devices()
    assert "GiB" in dict(found.rows)["cpu"]
    assert "fast data type" in dict(found.rows)["cpu"]


def test_caches_have_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "a").mkdir(parents=True)
    (tmp_path / "models" / "a" / "weights").write_bytes(bytes(2**28))
    (tmp_path / "models" / "link").symlink_to(tmp_path / "models" / "a" / "weights")
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path))
    rows = dict(checkup.check_caches().rows)
    assert rows["ours"] == f"0.2 GiB in {tmp_path}"
    assert rows["ours: models"] == f"0.2 GiB in {tmp_path / 'models'}"
    assert {"hub", "datasets", "free disk"} < set(rows)


def test_a_cache_that_cannot_be_written_to_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path / "file"))
    assert "SAEREG_CACHE" in checkup.check_caches().problems[0]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("broken", [False, True])
def test_the_exit_status_says_whether_something_is_broken(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a file where the cache folder should be, with a name that looks like markup
    cache = tmp_path / "[a]"
    if broken:
        cache.touch()
    monkeypatch.setenv("SAEREG_CACHE", str(cache))
    result = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "400"})
    assert result.exit_code == int(broken), result.output
    assert (f"broken: Cache folder '{cache}'" in result.output) == broken
    assert ("Nothing is broken." in result.output) != broken
    for title in ("Devices", "Hub", "Caches"):
        assert title in result.output
