"""
A folder of trained SAEs as a release.

The folder holds ``release.yaml`` in the schema of SAELens' ``pretrained_saes.yaml``, with
for each SAE its group (configuration), its seed and the SHA-256 of its files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from saereg_plugin.checks import is_finite, require_name, stays_inside
from saereg_plugin.errors import InputError, brief, suggest
from saereg_plugin.files import write_text
from saereg_plugin.html import html_block
from saereg_plugin.owned_folder import kind_of
from saereg_plugin.yaml_text import dump_yaml, read_yaml

if TYPE_CHECKING:
    from sae_lens import SAE

logger = logging.getLogger(__name__)

LOADER = "saereg_release"
KIND = "release"
"""Kind of a release folder in its mark."""
MANIFEST = "release.yaml"
BLOCK = "saereg"
COUNT = "entries"
HASH = "manifest_sha256"
SEEDS = range(-(1 << 63), 1 << 64)
"""Seeds that torch takes."""

_REMEDY = "Restore it from a copy, or remove it and train the release again."
_CORRECT = "Correct it, or get the release again."
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One SAE of a release; its ``path`` is relative to the release's folder."""

    sae_id: str
    path: str
    group: str
    seed: int | None
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by file name."""
    l0: float | None = None
    variance_explained: float | None = None


@dataclass(frozen=True)
class Release:
    """A release: ``name`` is what ``SAE.from_pretrained`` takes."""

    name: str
    model: str
    entries: tuple[Entry, ...]
    folder: Path | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_manifest(self) -> bool:
        """Whether it is in a folder with a manifest, which knows its training and hashes."""
        return self.folder is not None and (self.folder / MANIFEST).is_file()

    @property
    def ids(self) -> list[str]:
        """Ids of the SAEs."""
        return [entry.sae_id for entry in self.entries]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Ids of the SAEs by group; those of one group differ only in their seed."""
        found: dict[str, list[str]] = {}
        for entry in self.entries:
            found.setdefault(entry.group, []).append(entry.sae_id)
        return found

    def load(self, sae_id: str, *, device: str = "cpu") -> SAE[Any]:
        """
        Load one SAE through SAELens; the hashes of a folder's files are checked.

        Raises:
            InputError: if there is no such SAE, or the release was not opened.
        """
        from sae_lens import SAE
        from sae_lens.loading.pretrained_saes_directory import (
            get_pretrained_saes_directory,
        )

        if sae_id not in self.ids:
            raise InputError(
                f"No SAE {sae_id!r} in release {self.name!r}. {suggest(sae_id, self.ids)}"
            )
        # two folders may have a name in common
        key = self.name if self.folder is None else str(self.folder.absolute())
        if key not in get_pretrained_saes_directory():
            raise InputError(
                f"SAELens does not know release {self.name!r} yet; expected an opened release. "
                f"Open it with saereg_plugin.open_release({key!r})."
            )
        return SAE.from_pretrained(key, sae_id, device=device)

    def frame(self) -> pd.DataFrame:
        """Return one row per SAE: id, group, seed, and L0 at the end of training."""
        rows = [(e.sae_id, e.group, e.seed, e.l0) for e in self.entries]
        frame = pd.DataFrame(rows, columns=pd.Index(["sae_id", "group", "seed", "l0"]))
        # as objects, a seed that is missing does not turn the others into floats
        return frame.astype({"seed": object, "l0": float})

    def _repr_html_(self) -> str:
        title = f"Release {self.name}: {len(self.entries)} SAEs of {self.model}"
        return html_block(title, self.frame())

    def select(self, patterns: Iterable[str]) -> tuple[Entry, ...]:
        """
        Return the SAEs whose id matches any of the shell patterns; all without patterns.

        Raises:
            InputError: if a pattern matches nothing; names the nearest id.
        """
        wanted: set[str] = set()
        for pattern in patterns:
            found = {
                name
                for name in self.ids
                if name == pattern or fnmatchcase(name, pattern)
            }
            if not found:
                raise InputError(
                    f"No SAE {pattern!r} in release {self.name!r}. {suggest(pattern, self.ids)}"
                )
            wanted |= found
        return tuple(e for e in self.entries if not wanted or e.sae_id in wanted)


def write_release(release: Release) -> Path:
    """Write the manifest of ``release`` into its folder, atomically."""
    assert release.folder is not None
    saes = [
        {
            "id": entry.sae_id,
            **{key: value for key, value in asdict(entry).items() if key != "sae_id"},
        }
        for entry in release.entries
    ]
    manifest = _sealed(
        release.name,
        {
            "conversion_func": LOADER,
            "model": release.model,
            "repo_id": release.name,
            "saes": saes,
            BLOCK: dict(release.provenance),
        },
    )
    path = release.folder / MANIFEST
    write_text(path, dump_yaml(manifest))
    return path


def read_release(folder: str | Path) -> Release:
    """
    Read the manifest of a release folder; files of its SAEs are not looked at.

    Raises:
        InputError: if the folder or its manifest is missing, or the manifest cannot be used.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        unfinished = kind_of(folder) == KIND
        remedy = (
            "Its training is not finished: run the same 'saereg-bench train' again."
            if unfinished
            else "Expected a folder written by 'saereg-bench train'."
        )
        raise InputError(
            f"{str(folder)!r} is no release folder: it has no {MANIFEST}. {remedy}"
        )
    name, block = _checked(read_yaml(path), f"Manifest {str(path)!r}")
    entries = tuple(
        Entry(**{"sae_id" if key == "id" else key: item for key, item in sae.items()})
        for sae in block["saes"]
    )
    return Release(name, block["model"], entries, folder, block[BLOCK])


def _sealed(name: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the number of its SAEs and a hash of its content."""
    provenance = {COUNT: len(block["saes"]), **block[BLOCK]}
    digest = _digest(name, {**block, BLOCK: provenance})
    return {name: {**block, BLOCK: {HASH: digest, **provenance}}}


def _checked(value: Any, source: str) -> tuple[str, dict[str, Any]]:
    """
    Return a release's name and its block of a manifest, every field of its type.

    The block's ``saereg`` loses the number of SAEs and the hash. ``source`` begins messages.
    """
    if value is None:
        raise InputError(f"{source} is empty; expected a release. {_REMEDY}")
    if not isinstance(value, Mapping) or len(value) != 1:
        found = brief(value)
        if isinstance(value, Mapping):
            found = f"a mapping of {len(value)} keys"
        raise InputError(
            f"{source} cannot be read: it is {found}; expected one release by its name. {_REMEDY}"
        )
    ((name, block),) = value.items()
    name = require_name(f"{source}: the release's name", name)
    if not isinstance(block, Mapping):
        raise InputError(
            f"{source} cannot be read: {name!r} is {brief(block)}; expected its fields. {_REMEDY}"
        )
    if not block.get("model") or not _is_text(block["model"]):
        raise InputError(
            f"{source}: release {name!r} has the model {brief(block.get('model'))}; expected text. "
            f"{_CORRECT}"
        )
    saes = block.get("saes")
    if not isinstance(saes, list):
        raise InputError(
            f"{source}: the field 'saes' is {brief(saes)}; expected a list of SAEs. {_REMEDY}"
        )
    _require_whole(name, block, source)
    for number, sae in enumerate(saes, start=1):
        _require_sae(sae, f"{source}, SAE number {number}")
    for key in ("id", "path"):
        for value, count in Counter(sae[key] for sae in saes).items():
            if count > 1:
                raise InputError(
                    f"{source}: two SAEs have the {key} {value!r}; expected another {key} for each. "
                    f"{_CORRECT}"
                )
    provenance = {k: v for k, v in block[BLOCK].items() if k not in (COUNT, HASH)}
    return name, {**block, BLOCK: provenance}


def _require_whole(name: str, block: Mapping[str, Any], source: str) -> None:
    """Refuse a manifest that ends early or was changed since it was written."""
    provenance = block.get(BLOCK)
    if not isinstance(provenance, Mapping):
        raise InputError(
            f"{source} has no block {BLOCK!r} after its SAEs: it was cut short, or written by hand. "
            f"{_REMEDY} To one written by hand add '{BLOCK}: {{{COUNT}: {len(block['saes'])}}}'."
        )
    count = provenance.get(COUNT, len(block["saes"]))
    if count != len(block["saes"]):
        raise InputError(
            f"{source} lists {len(block['saes'])} SAEs; expected {brief(count)}, as it says itself: it "
            f"was cut or edited. {_REMEDY}"
        )
    digest = provenance.get(HASH)
    if digest is None:
        _warn_without_hash(source)
    elif digest != _digest(name, block):
        raise InputError(
            f"{source} is damaged or was edited: its {HASH} is not that of its content. {_REMEDY} "
            f"After an edit of your own remove the line {HASH!r}."
        )


@cache
def _warn_without_hash(source: str) -> None:
    logger.warning("%s has no %s; damage to it goes unseen.", source, HASH)


def _digest(name: str, block: Mapping[str, Any]) -> str:
    """Return the hash of a manifest without the hash itself."""
    provenance = {key: value for key, value in block[BLOCK].items() if key != HASH}
    content = _plain([name, {**block, BLOCK: provenance}])
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value with text for the keys of its mappings, so that they can be sorted."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _require_sae(sae: Any, source: str) -> None:
    """Refuse an entry of which a field is missing, unknown or of another type."""
    known = ("id", "group", *_EXPECTED)
    if not isinstance(sae, Mapping):
        raise InputError(
            f"{source} is {brief(sae)}; expected {', '.join(known)}. {_CORRECT}"
        )
    for key in sae:
        if key not in known:
            raise InputError(
                f"{source} has an unknown field {brief(key)}. {suggest(str(key), known)}"
            )
    for key in ("id", "path", "group", "seed", "files"):
        if key not in sae:
            raise InputError(f"{source} has no {key!r}; expected one. {_REMEDY}")
    require_name(f"{source}: its id", sae["id"], slashes=True)
    require_name(f"{source}: its group", sae["group"], slashes=True)
    source = f"{source} ({sae['id']!r})"
    for key, (holds, expected) in _EXPECTED.items():
        if not holds(sae.get(key)):
            raise InputError(
                f"{source} has the {key} {brief(sae.get(key))}; expected {expected}. {_CORRECT}"
            )
    for name, digest in sae["files"].items():
        if not _is_text(name) or not stays_inside(name) or "/" in name:
            raise InputError(
                f"{source} has a file called {brief(name)}; expected the name of a file in the "
                f"SAE's own folder. {_CORRECT}"
            )
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise InputError(
                f"{source}: the SHA-256 of {name!r} is {brief(digest)}; expected 64 hexadecimal "
                f"digits in lower case. {_CORRECT}"
            )


def _is_text(value: object) -> bool:
    """Return whether a value is text without control characters, all of it in UTF-8."""
    return isinstance(value, str) and not any(
        unicodedata.category(character) in ("Cc", "Cs") for character in value
    )


def _is_folder(value: Any) -> bool:
    return _is_text(value) and stays_inside(value)


def is_seed(value: object) -> bool:
    """Return whether a value is a whole number that torch takes for a seed."""
    return isinstance(value, int) and not isinstance(value, bool) and value in SEEDS


def _is_number(value: object) -> bool:
    return value is None or is_finite(value)


_EXPECTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "path": (_is_folder, "a folder inside the release's, relative and without '..'"),
    "seed": (
        lambda seed: seed is None or is_seed(seed),
        "a whole number of at most 64 bits, or null",
    ),
    "files": (
        lambda files: isinstance(files, Mapping),
        "the SHA-256 of each by its name",
    ),
    "l0": (_is_number, "a finite number, or null"),
    "variance_explained": (_is_number, "a finite number, or null"),
}
"""For each further field of an SAE, whether a value holds and what is expected."""
