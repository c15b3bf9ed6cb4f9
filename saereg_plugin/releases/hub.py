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
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        cause, remedy = _answer(status, error, pushing=pushing)
        mended_by_user = status < 409 or status in (413, 422)
    else:
        kind = type(error).__name__
        cause = f"the hub cannot be reached, or the connection broke ({kind})"
        remedy = "Check the network and run the command again."
        mended_by_user = False
    if pushing and not mended_by_user:
        remedy = f"{remedy} What was sent already is not sent again."
    message = f"Cannot {doing}: {cause}. {remedy}"
    return InputError(message) if mended_by_user or not pushing else WriteError(message)


def _answer(status: int, error: HfHubHTTPError, *, pushing: bool) -> tuple[str, str]:
    """Return what an answer of the hub means, and what to do."""
    login = "Log in with `hf auth login`, or set the variable HF_TOKEN"
    code = error.response.headers.get("X-Error-Code", "")
    if code == "RevisionNotFound":
        return f"it has no such revision ({status})", (
            "Give a branch, a tag or a commit of it, or none for 'main'."
        )
    if code == "EntryNotFound":
        return f"it lacks a file ({status}){_words(error)}", (
            "Give another revision, or tell the repository's owner."
        )
    if code == "GatedRepo":
        return f"it is gated ({status})", f"Accept its terms on the hub. {login}."
    if status == 401:
        wanted = "a token that may write" if pushing else "a token that may read it"
        return (
            f"it is unknown to the hub, or private, or the token is not valid ({status})",
            (f"Check the name. {login} to {wanted}."),
        )
    if status == 403:
        return f"the token may not do that ({status}){_words(error)}", (
            f"Check the owner's name. {login} to a token with the right to "
            f"{'write' if pushing else 'read'} there."
        )
    if status == 404:
        return f"there is no such repository, or it is private ({status})", (
            f"Check the name. {login} to a token that may see it."
        )
    if status in (409, 412):
        return f"it was made or changed by somebody else at the same time ({status})", (
            "Run the command again; if that does not help, see whether the token may see it."
        )
    if status == 429:
        return f"the hub got too many requests ({status})", (
            f"Wait {_seconds(error)}and run the command again."
        )
    if status >= 500:
        return f"the hub has a fault ({status})", "Run the command again later."
    return f"the hub refuses ({status}){_words(error)}", "Correct what it names."


def _seconds(error: HfHubHTTPError) -> str:
    """Return how long to wait, if the hub says so."""
    seconds = error.response.headers.get("Retry-After", "")
    return f"{seconds} seconds " if seconds.isdigit() else "some minutes "


def _words(error: HfHubHTTPError) -> str:
    """Return the hub's own words, short and without tokens."""
    said = " ".join((error.server_message or "").split())
    for token in filter(None, [get_token()]):
        said = said.replace(token, "***")
    said = _TOKEN.sub("***", said)[:_MOST_SAID]
    return f", and says {said!r}" if said else ""
