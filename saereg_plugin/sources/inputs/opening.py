"""Images and clips by name."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from saereg_plugin.errors import InputError, suggest
from saereg_plugin.sources.inputs.data import InputData, Split
from saereg_plugin.sources.inputs.emoji import open_emoji
from saereg_plugin.sources.inputs.listed import ListedData, require_split
from saereg_plugin.sources.inputs.mnist import open_mnist

EMBEDDED: MappingProxyType[str, Callable[[str], ListedData]] = MappingProxyType(
    {"emoji": open_emoji, "mnist": open_mnist}
)
"""Functions that open the data that ship inside registry packages, by name."""


def open_data(name_or_path: str, split: Split = "all") -> InputData:
    """
    Return images or clips, of one side.

    Args:
        name_or_path: ``emoji``, ``mnist``, or a folder.
        split: ``train``, ``heldout`` or ``all``.

    Raises:
        InputError: for an unknown name or split, or data that cannot be fetched or read.
    """
    require_split(split)
    if name_or_path in EMBEDDED:
        return EMBEDDED[name_or_path](name_or_path).side(split)
    raise InputError(
        f"Unknown data {name_or_path!r}; expected embedded data or a folder. "
        f"{suggest(name_or_path, EMBEDDED)}"
    )
