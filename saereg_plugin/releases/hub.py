"""Hub repositories: names, snapshots of one commit, errors in one line."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id

from saereg_plugin.errors import InputError, WriteError
from saereg_plugin.files import disk_errno, files_in

logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 10.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKEN = re.compile(r"hf_[A-Za-z0-9_]+")
_SECONDS = re.compile(r"(?:^|;\s*t=)(\d+)\s*$")
"""Seconds to wait, in the header Retry-After or at the end of the hub's own RateLimit."""
_MOST_SAID = 200
"""Most characters of the hub's own words in a message."""


@dataclass(frozen=True)
class Snapshot:
    """
    One commit of a hub repository.

    Attributes:
        repository: ``owner/name``.
        commit: the commit's 40 hexadecimal digits.
        files: paths of the commit's files, or of those in the cache where the hub is out of
            reach.
        folder: where the hub client's cache keeps the files of this commit.
    """

    repository: str
    commit: str
    files: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        """``owner/name@commit``."""
        return f"{self.repository}@{self.commit}"

    def fetch(self, paths: Iterable[str]) -> None:
        """
        Download files that the cache lacks.

        Raises:
            InputError: if the hub does not send one of them.
        """
        with telling(f"read {self.name!r} from the hub"):
            for path in paths:
                hf_hub_download(self.repository, path, revision=self.commit)


SNAPSHOTS: dict[Path, Snapshot] = {}
"""Snapshots that this process opened, by their folders."""


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is a whole commit id, which always means the same files."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def split_name(name: str) -> tuple[str, str | None] | None:
    """
    Return repository and revision of ``owner/name[@revision]``, or None for another name.

    >>> split_name("lab/saes@v1")
    ('lab/saes', 'v1')
    >>> split_name("./saes") is None
    True
    """
    repository, at, revision = name.partition("@")
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        return None
    return repository, revision if at else None


def require_repository(name: str) -> str:
    """
    Return a repository's name.

    Raises:
        InputError: if it is not ``owner/name`` as the hub allows it.
    """
    try:
        validate_repo_id(name)
        if "/" in name:
            return name
        reason = "it has no owner"
    except HFValidationError as error:
        reason = str(error).split("\n")[0].rstrip(".")
    raise InputError(
        f"{name!r} names no hub repository ({reason}); expected owner/name, such as "
        "'my-name/my-saes'. Correct it."
    )


def find_snapshot(name: str) -> Snapshot:
    """
    Return the commit that ``owner/name[@revision]`` stands for now; no file is downloaded.

    Without a revision it is the newest commit of ``main``. Where the hub is out of reach it is
    the commit that the cache has under that name.

    Raises:
        InputError: if the name is none, or neither hub nor cache have it.
    """
    found = split_name(name)
    if found is None or found[1] == "":
        raise InputError(
            f"{name!r} names no hub repository; expected owner/name or owner/name@revision, the "
            "revision a branch, a tag or a commit. Correct it."
        )
    repository, revision = require_repository(found[0]), found[1]
    try:
        info = HfApi().model_info(
            repository, revision=revision, timeout=_TIMEOUT_SECONDS
        )
    except (HTTPError, OSError) as error:
        cached = None if _refused(error) else _cached(repository, revision)
        if cached is None:
            raise _told(error, f"read {name!r} from the hub") from error
        return cached
    commit = str(info.sha)
    files = tuple(sorted(file.rfilename for file in info.siblings or []))
    return Snapshot(repository, commit, files, _folder(repository, commit))


def _folder(repository: str, commit: str) -> Path:
    return cached_repository(repository) / "snapshots" / commit


def cached_repository(repository: str) -> Path:
    """Return where the hub client's cache keeps all commits of a repository."""
    name = repo_folder_name(repo_id=repository, repo_type="model")
    return Path(constants.HF_HUB_CACHE).absolute() / name


def whole_folder(folder: Path) -> Path:
    """Return the cache's folder of a snapshot's repository; another folder as it is."""
    snapshot = SNAPSHOTS.get(folder)
    return folder if snapshot is None else cached_repository(snapshot.repository)


def _cached(repository: str, revision: str | None) -> Snapshot | None:
    """Return what the cache has of a revision, or None."""
    commit = revision
    if not is_commit(revision):
        named = cached_repository(repository) / "refs" / (revision or "main")
        commit = named.read_text(encoding="utf-8") if named.is_file() else None
    if commit is None or not _folder(repository, commit).is_dir():
        return None
    if commit != revision:
        logger.warning(
            "The hub is out of reach; %s is read from the cache, at commit %s.",
            repository,
            commit,
        )
    folder = _folder(repository, commit)
    return Snapshot(repository, commit, tuple(files_in(folder)), folder)


@contextmanager
def from_snapshot(folder: Path) -> Iterator[None]:
    """Add to errors about files of a snapshot where they come from, and what to do."""
    try:
        yield
    except InputError as error:
        snapshot = SNAPSHOTS.get(folder)
        if snapshot is None:
            raise
        raise InputError(
            f"{error} It comes from the hub: {snapshot.name}. Remove the repository from the hub "
            "client's cache (`hf cache rm`) and run the command again. If the file is damaged "
            "again, give an earlier commit, or tell the repository's owner."
        ) from error


@contextmanager
def telling(doing: str, *, pushing: bool = False) -> Iterator[None]:
    """
    Turn errors of the hub client into one line that says what to do.

    Args:
        doing: what is done, after "Cannot".
        pushing: whether files are sent.

    Raises:
        InputError: if name, token or rights must be changed, or if nothing could be read.
        WriteError: if files could not be sent now, but could later.
    """
    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = _of_hub(error)
        if cause is None or isinstance(error, InputError | WriteError):
            raise
        raise _told(cause, doing, pushing=pushing) from error


def _of_hub(error: BaseException) -> BaseException | None:
    """Return the hub's answer behind an error, else an error of the network, else None."""
    found: BaseException | None = None
    current: BaseException | None = error
    while current is not None:
        if disk_errno(current) is not None:
            return None
        if isinstance(current, HfHubHTTPError):
            return current
        if found is None and isinstance(current, HTTPError | OSError):
            found = current
        current = current.__cause__
    return found


def _refused(error: BaseException) -> bool:
    """Return whether the hub answered, and not that it is busy or broken."""
    return isinstance(error, HfHubHTTPError) and error.response.status_code < 429


def _told(
    error: BaseException, doing: str, *, pushing: bool = False
) -> InputError | WriteError:
    """Return an error of the hub client as one line with a remedy."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, HfHubHTTPError):
        cause, remedy = _answer(error, act="write" if pushing else "read")
    else:
        kind = type(error).__name__
        cause = f"the hub cannot be reached, or the connection broke ({kind})"
        remedy = "Check the network and run the command again."
    is_passing = status is None or status in _PASSING or status >= 500
    if pushing and is_passing:
        remedy = f"{remedy} What was sent already is not sent again."
    message = f"Cannot {doing}: {cause}. {remedy}"
    return WriteError(message) if pushing and is_passing else InputError(message)


_LOGIN = "Log in with `hf auth login`, or set the variable HF_TOKEN"
_BY_CODE = {
    "RevisionNotFound": (
        "it has no such revision",
        "Give a branch, a tag or a commit of it, or none for 'main'.",
    ),
    "EntryNotFound": (
        "it lacks a file",
        "Give another revision, or tell the repository's owner.",
    ),
    "GatedRepo": ("it is gated", f"Accept its terms on the hub. {_LOGIN}."),
}
_CONFLICT = (
    "it was made or changed by somebody else at the same time",
    "Run the command again; if that does not help, see whether the token may see it.",
)
_BY_STATUS = {
    401: (
        "it is unknown to the hub, or private, or the token is not valid",
        f"Check the name. {_LOGIN} to a token that may {{act}}.",
    ),
    403: (
        "the token may not do that",
        f"Check the owner's name. {_LOGIN} to a token that may {{act}} there.",
    ),
    404: (
        "there is no such repository, or it is private",
        f"Check the name. {_LOGIN} to a token that may see it.",
    ),
    409: _CONFLICT,
    412: _CONFLICT,
    429: ("the hub got too many requests", "Wait {wait} and run the command again."),
}
"""What an answer of the hub means and what to do, by its code, else by its status."""
_PASSING = (408, 409, 412, 429)
"""Status of answers that may be others later, besides faults of the hub."""


def _answer(error: HfHubHTTPError, *, act: str) -> tuple[str, str]:
    """Return what an answer of the hub means, in its own words too, and what to do."""
    status, headers = error.response.status_code, error.response.headers
    other = (
        ("the hub has a fault", "Run the command again later.")
        if status >= 500
        else ("the hub refuses", "Correct what it names.")
    )
    code = headers.get("X-Error-Code", "")
    cause, remedy = _BY_CODE.get(code) or _BY_STATUS.get(status) or other
    seconds = _SECONDS.search(
        headers.get("Retry-After") or headers.get("RateLimit", "")
    )
    wait = f"{seconds[1]} seconds" if seconds else "some minutes"
    return f"{cause} ({status}){_words(error)}", remedy.format(act=act, wait=wait)


def _words(error: HfHubHTTPError) -> str:
    """Return the hub's own words, short and without tokens."""
    said = " ".join((error.server_message or "").split())
    for token in filter(None, [get_token()]):
        said = said.replace(token, "***")
    said = _TOKEN.sub("***", said)[:_MOST_SAID]
    return f", and says {said!r}" if said else ""
