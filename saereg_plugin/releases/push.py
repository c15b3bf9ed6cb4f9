"""Uploads of a release to a hub repository, as one commit."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from saereg_plugin.errors import InputError
from saereg_plugin.owned_folder import MARK, OwnedFolder, kind_of
from saereg_plugin.releases.card import CARD, UNKNOWN_LICENSE, hub_card, is_old_card
from saereg_plugin.releases.card import MARK as CARD_MARK
from saereg_plugin.releases.hashes import verify_files
from saereg_plugin.releases.hub import is_commit, require_repository, telling
from saereg_plugin.releases.release import MANIFEST, Release, read_release

RESULTS = "results"
"""Folder of the results, in the repository; also the kind of their folder here."""
_RECORDS = "records"
_ALIGNMENT = "vocabulary_alignment.parquet"
_REPORT_DATA = "report_data"
"""Folder next to a large report page, with a mark of its own."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedFile:
    """A file of an upload: its path in the repository and its source here."""

    path: str
    source: Path | str
    """A file, or the text itself."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        if isinstance(self.source, str):
            return len(self.source.encode())
        return self.source.stat().st_size


@dataclass(frozen=True)
class Plan:
    """What a push would send, and where to."""

    repository: str
    revision: str | None
    files: tuple[PlannedFile, ...]

    @property
    def size(self) -> int:
        """Size of all files in bytes."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Pushed:
    """
    A commit that holds a release.

    Attributes:
        name: ``owner/name@commit``, which ``open_release`` takes.
        commit: id of the commit.
        url: its page.
        changed: False if the repository had these files already.
    """

    name: str
    commit: str
    url: str
    changed: bool


def push(
    release: str | Path | Release,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    results: str | Path | None = None,
    license: str = UNKNOWN_LICENSE,
) -> Pushed:
    """
    Upload a release folder to a hub repository, which is made if there is none.

    The SHA-256 of every file of an SAE is checked first. Manifest, model card, SAEs and training
    records go up in one commit; checkpoints stay here. Files that the repository holds besides
    these stay there. The token is that of ``hf auth login``, or of the variable HF_TOKEN.
    Example::

        import saereg_plugin as sr

        pushed = sr.push("my-release", "my-name/my-saes", results="results")
        sr.open_release(pushed.name)

    Args:
        release: the folder, or a release that was opened from one.
        repository: ``owner/name``.
        private: make a new repository private.
        revision: branch to commit to, made if there is none; by default ``main``.
        results: folder of results, which goes to ``results/`` with its report.
        license: the hub's identifier of the licence for the card, such as "mit".

    Raises:
        InputError: if a file differs from its hash, or name, token or rights must be changed.
        WriteError: if the hub cannot be reached or is busy. A further call does not send again
            what was sent.
    """
    plan = plan_push(
        release, repository, revision=revision, results=results, license=license
    )
    return upload(plan, private=private)


def plan_push(
    release: str | Path | Release,
    repository: str,
    *,
    revision: str | None = None,
    results: str | Path | None = None,
    license: str = UNKNOWN_LICENSE,
) -> Plan:
    """
    List what ``push`` with the same arguments would send; the hub is not asked.

    Raises:
        InputError: if a file is missing or differs from its hash, or an argument is wrong.
    """
    require_repository(repository)
    if is_commit(revision) or revision == "":
        raise InputError(
            f"Revision {revision!r} is a commit or nothing; expected the name of a branch. "
            "Leave it out for 'main'."
        )
    found = _release_of(release)
    root = _root(found)
    for entry in found.entries:
        verify_files(root, entry.path)
    reported = [] if results is None else _result_files(Path(results))
    card = _card(
        found,
        repository,
        revision=revision,
        license=license,
        with_results=bool(reported),
    )
    return Plan(repository, revision, (card, *_release_files(found), *reported))


def _release_of(release: str | Path | Release) -> Release:
    """Return the release in a folder; it must have SAEs."""
    folder = release.folder if isinstance(release, Release) else Path(release)
    if folder is None:
        raise InputError(
            f"The release is {release!r}, no folder; expected one that 'saereg-bench train' wrote."
        )
    found = read_release(folder)
    if not found.entries:
        raise InputError(
            f"Release {found.name!r} holds no SAE; expected one or more. Train it again."
        )
    return found


def _root(release: Release) -> Path:
    assert release.folder is not None
    return release.folder


def _card(
    release: Release,
    repository: str,
    *,
    revision: str | None,
    license: str,
    with_results: bool,
) -> PlannedFile:
    """Return the card for the hub, or the user's own, which has no mark, with a warning."""
    path = _root(release) / CARD
    if path.is_file() and not _is_ours(release, path.read_text(encoding="utf-8")):
        unused = "" if license == UNKNOWN_LICENSE else f", without licence {license!r}"
        logger.warning(
            "%r is your own text and goes up as it is%s. Move it away for the card that this package "
            "writes.",
            str(path),
            unused,
        )
        return PlannedFile(CARD, path)
    text = hub_card(
        release,
        repository,
        revision=None if revision == "main" else revision,
        license=license,
        with_results=with_results,
    )
    return PlannedFile(CARD, text)


def _is_ours(release: Release, card: str) -> bool:
    """Return whether this package wrote a card, now or before cards had a mark."""
    return CARD_MARK in card or is_old_card(release, card)


def _release_files(release: Release) -> Iterator[PlannedFile]:
    """Yield manifest, SAEs, training records and vocabulary alignment."""
    root = _root(release)
    wanted = [MANIFEST]
    for entry in release.entries:
        wanted += [f"{entry.path}/{name}" for name in entry.files]
    optional = [f"{_RECORDS}/{entry.sae_id}.jsonl" for entry in release.entries]
    wanted += [name for name in (*optional, _ALIGNMENT) if _is_plain(root, name)]
    for name in wanted:
        yield PlannedFile(name, root / name)


def _result_files(folder: Path) -> list[PlannedFile]:
    """
    Return the files of a results folder that its mark lists, and those of its report's data.

    Raises:
        InputError: if the folder is no results folder.
    """
    if kind_of(folder) != RESULTS:
        raise InputError(
            f"{str(folder)!r} is no folder of results: it has no {MARK} of that kind. Expected one "
            "that 'saereg-bench run' wrote."
        )
    names = {
        *_listed(folder),
        *(f"{_REPORT_DATA}/{n}" for n in _listed(folder / _REPORT_DATA)),
    }
    return [
        PlannedFile(f"{RESULTS}/{name}", folder / name)
        for name in sorted(names)
        if _is_plain(folder, name)
        and not any(part.startswith(".") for part in PurePosixPath(name).parts)
    ]


def _listed(folder: Path) -> frozenset[str]:
    """Return the files that a folder's mark lists; none without a mark."""
    kind = kind_of(folder)
    return frozenset() if kind is None else OwnedFolder(folder, kind).files()


def _is_plain(folder: Path, name: str) -> bool:
    """Return whether a folder has a file, reached without a link inside the folder."""
    path = folder / name
    return path.is_file() and path.resolve() == folder.resolve() / name


def upload(plan: Plan, *, private: bool = False) -> Pushed:
    """
    Send a plan as one commit; see ``push``.

    Raises:
        InputError: if name, token or rights must be changed, or a public repository is
            asked to be private.
        WriteError: if the hub cannot be reached or is busy.
    """
    if get_token() is None:
        raise InputError(
            f"Cannot push to {plan.repository!r}: there is no token of the hub. Log in with "
            "`hf auth login`, or set the variable HF_TOKEN to a token that may write."
        )
    api = HfApi()
    with (
        telling(f"push to {plan.repository!r}", pushing=True),
        warnings.catch_warnings(),
    ):
        # parquet files are taken for a data set; here they are tables of latents
        warnings.filterwarnings("ignore", "It seems that you are about to commit")
        before = _head(api, plan, private=private)
        # upload_folder may make several commits, and then a release is there in part
        commit = api.create_commit(
            plan.repository,
            [_addition(file) for file in plan.files],
            commit_message="Upload sparse autoencoders with saereg-plugin",
            revision=plan.revision,
        )
    name = f"{plan.repository}@{commit.oid}"
    return Pushed(name, commit.oid, str(commit.commit_url), commit.oid != before)


def _addition(file: PlannedFile) -> CommitOperationAdd:
    source = file.source
    content = source.encode() if isinstance(source, str) else source
    return CommitOperationAdd(file.path, content)


def _head(api: HfApi, plan: Plan, *, private: bool) -> str | None:
    """
    Return the commit that the branch has before the upload; make what is missing.

    Raises:
        InputError: if the repository is public and a private one was asked for.
    """
    try:
        info = api.model_info(plan.repository)
    except RepositoryNotFoundError:
        # the hub answers the same where the token may not look; making it then fails
        api.create_repo(plan.repository, private=private)
        info = api.model_info(plan.repository)
    if private and info.private is False:
        raise InputError(
            f"Repository {plan.repository!r} is public already; --private only makes a new one "
            "private. Make it private in its settings on the hub, or choose another name."
        )
    if plan.revision is None:
        return info.sha
    try:
        return api.model_info(plan.repository, revision=plan.revision).sha
    except RevisionNotFoundError:
        api.create_branch(plan.repository, branch=plan.revision)
        return api.model_info(plan.repository, revision=plan.revision).sha
