"""Images and clips by name or folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from saereg_plugin.errors import InputError, suggest, suggest_path
from saereg_plugin.sources.inputs.data import InputData, Split
from saereg_plugin.sources.inputs.embedded_sound import open_non_speech, open_speech
from saereg_plugin.sources.inputs.emoji import open_emoji
from saereg_plugin.sources.inputs.folders import open_folder
from saereg_plugin.sources.inputs.listed import ListedData, require_split
from saereg_plugin.sources.inputs.mnist import open_mnist

EMBEDDED: MappingProxyType[str, Callable[[str], ListedData]] = MappingProxyType(
    {
        "emoji": open_emoji,
        "mnist": open_mnist,
        "non-speech": open_non_speech,
        "speech": open_speech,
    }
)
"""Functions that open the data that ship inside registry packages, by name."""


def open_data(name_or_path: str, split: Split = "all") -> InputData:
    """
    Return images or clips, of one side.

    Args:
        name_or_path: embedded data (``EMBEDDED``), or a folder of images or audio files.
        split: ``train``, ``heldout`` or ``all``.

    Raises:
        InputError: for an unknown name or split, or data that cannot be fetched or read.
    """
    require_split(split)
    if name_or_path in EMBEDDED:
        return EMBEDDED[name_or_path](name_or_path).side(split)
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return open_folder(name_or_path, folder).side(split)
    hint = suggest_path(folder) or suggest(name_or_path, EMBEDDED)
    raise InputError(
        f"Unknown data {name_or_path!r}; expected embedded data "
        f"({', '.join(map(repr, EMBEDDED))}) or a folder of images or audio files. {hint}"
    )
