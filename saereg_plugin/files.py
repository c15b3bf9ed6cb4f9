"""Files that are either whole or absent: write to a temporary name, then rename."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from saereg_plugin.errors import InputError


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """
    Yield a temporary path beside ``target``; rename it to ``target`` on success.

    The block creates a file or a folder at the temporary path. If it raises,
    what it left is removed and ``target`` stays as it was. An existing target
    folder is moved aside first, so a reader never sees a mixture.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        if target.is_dir():
            aside = target.with_name(f".{target.name}.{uuid4().hex[:8]}.old")
            target.rename(aside)
            temporary.rename(target)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write strict JSON atomically; a NaN or infinity raises ``ValueError``."""
    write_text(target, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def folder_identity(folder: Path) -> list[Any]:
    """Return plain JSON that changes when a file of the folder does: names, sizes, times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    states = [(str(file), file.stat()) for file in files]
    return [
        str(folder.resolve()),
        [[name, state.st_size, state.st_mtime_ns] for name, state in states],
    ]


def require_writable(folder: Path) -> Path:
    """
    Create ``folder`` and prove that files can be written in it.

    Raises:
        InputError: if it cannot be created or written to.
    """
    probe = folder / f".write-test-{uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"Output folder {str(folder)!r} is not writable ({error.strerror}); "
            "expected a folder in which files can be created. Choose another one."
        ) from error
    return folder


class _YamlLoader(yaml.SafeLoader):
    """YAML as people write it: YAML 1.1 alone reads ``1e-5`` as text."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> Any:
    """
    Read a YAML file.

    Raises:
        InputError: if it does not exist or is no YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_YamlLoader)
    except OSError as error:
        raise InputError(
            f"File {str(path)!r} cannot be read ({error.strerror})."
        ) from error
    except yaml.YAMLError as error:
        raise InputError(f"File {str(path)!r} is no YAML: {error}") from error
