"""Inputs listed by name, read when asked for, on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from saereg_plugin.errors import InputError, brief, suggest
from saereg_plugin.sources.assets import cache_dir, ensure_folder
from saereg_plugin.sources.inputs.data import Split

SPLITS: tuple[Split, ...] = ("train", "heldout", "all")
TENTH = 0.1
HALF = 0.5
_TABLE = "table.parquet"


@dataclass(frozen=True)
class ListedData:
    """
    Inputs that a function reads by their number.

    Attributes:
        name: the name they were opened by.
        takes: "images" or "clips".
        read: returns the input of a number of the whole set.
        titles: short names of all inputs.
        source: plain JSON that changes with the whole set.
        heldout: for each input of the whole set, whether it is held out.
        labels: int64 (n,), classes of the chosen inputs; None without classes.
        class_names: names of the classes.
        groups: int64 (n,), chosen inputs of one number are variants of one thing; None if
            there are no variants.
        split: the chosen side.
        chosen: numbers of the chosen inputs in the whole set.
    """

    name: str
    takes: Literal["images", "clips"]
    read: Callable[[int], Any]
    titles: Sequence[str]
    source: Any
    heldout: Sequence[bool]
    labels: Tensor | None = None
    class_names: Sequence[str] = ()
    groups: Tensor | None = None
    split: Split = "all"
    chosen: Sequence[int] = field(default=())

    def __post_init__(self) -> None:
        if not self.chosen:
            object.__setattr__(self, "chosen", range(len(self.titles)))

    def side(self, split: Split) -> ListedData:
        """
        Return the inputs of one side.

        Raises:
            InputError: if the side has no input.
        """
        wanted = {"train": (False,), "heldout": (True,), "all": (False, True)}[split]
        chosen = [n for n, out in enumerate(self.heldout) if out in wanted]
        if not chosen:
            raise InputError(
                f"Data {self.name!r} has no input for the split {split!r} ({len(self.titles)} "
                "in all); expected one or more on either side. Give more inputs."
            )
        numbers = torch.tensor(chosen)
        labels = None if self.labels is None else self.labels[numbers]
        groups = None if self.groups is None else self.groups[numbers]
        return replace(self, chosen=chosen, labels=labels, groups=groups, split=split)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> Any:
        """Return the image or clip of a number."""
        return self.read(self.chosen[number])

    def title(self, number: int) -> str:
        """Return the name of an input."""
        return self.titles[self.chosen[number]]

    def identity(self) -> Any:
        """Return plain JSON that changes with the inputs and the side."""
        chosen = hashlib.sha256(repr(list(self.chosen)).encode()).hexdigest()
        return {
            "name": self.name,
            "source": self.source,
            "split": self.split,
            "chosen": chosen,
        }


def numbered(keys: Sequence[str]) -> Tensor:
    """
    Return one number per key, int64 (n,), equal for equal keys.

    >>> numbered(["tabla", "drum", "tabla"]).tolist()
    [0, 1, 0]
    """
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([numbers[key] for key in keys])


def require_split(split: str) -> None:
    """Raise InputError for anything but train, heldout and all."""
    if split not in SPLITS:
        raise InputError(f"Unknown split {brief(split)}. {suggest(str(split), SPLITS)}")


def held_out(key: str, share: float = TENTH) -> bool:
    """
    Return whether the inputs of a key are held out, by the hash of the key.

    The side of an input therefore does not change when others are added.
    """
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return number < share * 2**64


def kept_table(
    name: str, source: Any, build: Callable[[Path], pd.DataFrame]
) -> pd.DataFrame:
    """
    Return a table out of the cache, built the first time.

    Args:
        name: of its folder.
        source: its ingredients as plain JSON; a change builds the table again.
        build: makes the table; it may write files to the folder that it is given.

    Raises:
        InputError: if its ingredients cannot be fetched.
    """

    def write(target: Path) -> None:
        target.mkdir()
        scratch = target / "scratch"
        scratch.mkdir()
        build(scratch).to_parquet(target / _TABLE)
        for left in scratch.iterdir():
            left.unlink()
        scratch.rmdir()

    return _read(ensure_folder(cache_dir() / "inputs" / name, source, write) / _TABLE)


@lru_cache(maxsize=4)
def _read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path)
