"""Checks of a release's manifest: types, names, paths and its own hash."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any

from saereg_plugin.checks import require_name, stays_inside
from saereg_plugin.errors import InputError, brief, suggest

logger = logging.getLogger(__name__)

MANIFEST = "release.yaml"
BLOCK = "saereg"
COUNT = "entries"
HASH = "manifest_sha256"
FIELDS = ("id", "path", "group", "seed", "files", "l0", "variance_explained")
SEEDS = range(-(1 << 63), 1 << 64)
"""Seeds that torch takes."""

_REMEDY = "Restore it from a copy, or remove it and train the release again."
_CORRECT = "Correct it, or get the release again."
_SHA256 = re.compile(r"[0-9a-f]{64}")


def sealed(name: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the number of its SAEs and a hash of all that it says."""
    provenance = {COUNT: len(block["saes"]), **block[BLOCK]}
    digest = _digest(name, {**block, BLOCK: provenance})
    return {name: {**block, BLOCK: {HASH: digest, **provenance}}}


def checked(value: Any, source: str) -> tuple[str, dict[str, Any]]:
    """
    Return the name of a release and its block of a manifest, with every field of its type.

    The block's ``saereg`` comes back without the number of SAEs and the hash.

    Args:
        value: the document.
        source: what errors call it.

    Raises:
        InputError: if it is empty, cut short or edited, or a field cannot be used.
    """
    if value is None:
        raise InputError(f"{source} is empty; expected a release. {_REMEDY}")
    if not isinstance(value, Mapping) or len(value) != 1:
        raise InputError(
            f"{source} cannot be read: it is {_kind(value)}; expected one release by its name. {_REMEDY}"
        )
    ((name, block),) = value.items()
    name = require_name(f"{source}: the release's name", name)
    if not isinstance(block, Mapping):
        raise InputError(
            f"{source} cannot be read: {name!r} is {brief(block)}; expected its fields. {_REMEDY}"
        )
    _require_text(block, "model", f"{source}: release {name!r}")
    saes = block.get("saes")
    if not isinstance(saes, list):
        raise InputError(
            f"{source}: the field 'saes' is {brief(saes)}; expected a list of SAEs. {_REMEDY}"
        )
    _require_whole(name, block, source)
    for number, sae in enumerate(saes, start=1):
        _require_sae(sae, f"{source}, SAE number {number}")
    for key in ("id", "path"):
        _require_unique([sae[key] for sae in saes], key, source)
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
    if not isinstance(sae, Mapping):
        raise InputError(
            f"{source} is {brief(sae)}; expected {', '.join(FIELDS)}. {_CORRECT}"
        )
    for key in sae:
        if key not in FIELDS:
            raise InputError(
                f"{source} has an unknown field {brief(key)}. {suggest(str(key), FIELDS)}"
            )
    for key in ("id", "path", "group", "seed", "files"):
        if key not in sae:
            raise InputError(f"{source} has no {key!r}; expected one. {_REMEDY}")
    require_name(f"{source}: its id", sae["id"], slashes=True)
    require_name(f"{source}: its group", sae["group"], slashes=True)
    source = f"{source} ({sae['id']!r})"
    _require_text(sae, "path", source)
    if not stays_inside(sae["path"]):
        raise InputError(
            f"{source} has the path {brief(sae['path'])}; expected a folder inside the release's, "
            f"relative and without '..'. {_CORRECT}"
        )
    if sae["seed"] is not None and not is_seed(sae["seed"]):
        raise InputError(
            f"{source} has the seed {brief(sae['seed'])}; expected a whole number of at most "
            f"64 bits, or null. {_CORRECT}"
        )
    _require_files(sae["files"], source)
    for key in ("l0", "variance_explained"):
        number = sae.get(key)
        if number is not None and not _is_number(number):
            raise InputError(
                f"{source} has {key} {brief(number)}; expected a finite number, or null. {_CORRECT}"
            )


def _require_files(files: Any, source: str) -> None:
    if not isinstance(files, Mapping):
        raise InputError(
            f"{source} has the files {brief(files)}; expected the SHA-256 of each by its name. "
            f"{_CORRECT}"
        )
    for name, digest in files.items():
        if (
            not isinstance(name, str)
            or not stays_inside(name)
            or "/" in name
            or has_controls(name)
        ):
            raise InputError(
                f"{source} has a file called {brief(name)}; expected the name of a file in the "
                f"SAE's own folder. {_CORRECT}"
            )
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise InputError(
                f"{source}: the SHA-256 of {name!r} is {brief(digest)}; expected 64 hexadecimal "
                f"digits in lower case. {_CORRECT}"
            )


def _require_text(fields: Mapping[str, Any], key: str, source: str) -> None:
    value = fields.get(key)
    if not isinstance(value, str) or not value or has_controls(value):
        raise InputError(
            f"{source} has the {key} {brief(value)}; expected text. {_CORRECT}"
        )


def _require_unique(values: list[str], key: str, source: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise InputError(
                f"{source}: two SAEs have the {key} {value!r}; expected another {key} for each. "
                f"{_CORRECT}"
            )
        seen.add(value)


def has_controls(text: str) -> bool:
    """Whether a text has control characters, or some that UTF-8 cannot encode."""
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def is_seed(value: object) -> bool:
    """Whether a value is a whole number that torch takes for a seed."""
    return isinstance(value, int) and not isinstance(value, bool) and value in SEEDS


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # an integer of thousands of digits has no float
    return abs(value) < 1e300 if isinstance(value, int) else math.isfinite(value)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)} keys"
    return brief(value)
