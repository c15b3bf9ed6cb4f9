"""Noto's emoji as labelled colour images, out of two Debian packages."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from saereg_plugin.machine import require_extra
from saereg_plugin.sources.assets import Asset, fetch_member
from saereg_plugin.sources.inputs.listed import (
    ListedData,
    held_out,
    kept_table,
    numbered,
)

FONT = Asset(
    requirement="fonts-noto-color-emoji=2.042-0+deb12u1",
    archive="fonts-noto-color-emoji_2.042-0+deb12u1_all.deb",
    sha256="a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751",
    size=9_893_872,
    member="usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
)
"""The font (OFL), whose images are Apache-2.0."""
NAMES = Asset(
    requirement="unicode-data=15.0.0-1",
    archive="unicode-data_15.0.0-1_all.deb",
    sha256="5efef23bbb1c6a133ecbdd63a2cfa07159ccacf5466a49e2426101c5ecd691fc",
    size=7_983_784,
    member="usr/share/unicode/emoji/emoji-test.txt",
)
"""Unicode's list of emoji with their names, groups and subgroups."""

_FORMAT = 2
"""Raised whenever the table in the cache changes, so that old tables are built again."""
_VARIATION_SELECTOR = 0xFE0F
_LIGATURES, _EXTENSION = 4, 7


class Emoji(NamedTuple):
    """One line of Unicode's list."""

    codes: tuple[int, ...]
    name: str
    group: str
    subgroup: str


def open_emoji(name: str) -> ListedData:
    """
    Return the 3,655 emoji in their 99 subgroups; a tenth is held out.

    The variants of an emoji (skin tone, gender, hair) and emoji that look the same are on
    one side.

    Raises:
        InputError: if an archive cannot be fetched, or the extra ``vision`` is missing.
    """
    require_extra("vision", f"The data {name!r}")
    source = {"archives": [FONT.sha256, NAMES.sha256], "format": _FORMAT}
    table = kept_table("emoji", source, _build)
    subgroups: list[str] = list(table["subgroup"])
    names = sorted(set(subgroups))
    numbers = {subgroup: number for number, subgroup in enumerate(names)}
    variants = list(table["variants"])
    return ListedData(
        name=name,
        takes="images",
        read=lambda number: _picture(table["png"].iloc[number]),
        titles=list(table["name"]),
        source=source,
        heldout=[held_out(key) for key in variants],
        labels=torch.tensor([numbers[subgroup] for subgroup in subgroups]),
        class_names=names,
        groups=numbered(variants),
    )


def _picture(png: bytes) -> Any:
    """Return an emoji on white, in RGB."""
    from PIL import Image

    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    return Image.alpha_composite(white, drawn).convert("RGB")


def _build(scratch: Path) -> pd.DataFrame:
    """Return name, groups, key of variants and PNG of every emoji."""
    lines = fetch_member(NAMES, scratch / "names").read_text(encoding="utf-8")
    drawings = _Font(fetch_member(FONT, scratch / "font"))
    rows: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for emoji in _listed(lines.splitlines()):
        png = drawings.png(emoji.codes)
        # flags of dependent territories are drawn as their country's
        key = seen.setdefault(hashlib.sha256(png).hexdigest(), variants_of(emoji.name))
        rows.append({**emoji._asdict(), "variants": key, "png": png})
    return pd.DataFrame(rows).drop(columns="codes")


def _listed(lines: list[str]) -> Iterator[Emoji]:
    """Yield the fully qualified emoji of Unicode's list."""
    group = subgroup = ""
    for line in lines:
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ")
        elif "; fully-qualified" in line:
            codes, _, comment = line.partition(";")
            # "# <emoji> E1.0 grinning face"
            name = comment.partition("#")[2].split(maxsplit=2)[2]
            numbers = tuple(int(code, 16) for code in codes.split())
            yield Emoji(numbers, name, group, subgroup)


_PEOPLE = re.compile(
    r"\b((wo)?m[ae]n|person|people|boy|girl|child|older|old|princess|prince|merman|mermaid"
    r"|merperson|Santa|Mrs\.|mx)(?!\w)"
)
_VARIANT = re.compile(
    r".*skin tone|.*\bhair|bald|beard|no one|(person[s, ]*)+", re.IGNORECASE
)


def variants_of(name: str) -> str:
    """
    Return the key that an emoji shares with its variants in skin tone, gender and hair.

    >>> variants_of("woman firefighter: dark skin tone")
    'firefighter'
    >>> variants_of("flag: France")
    'flag: France'
    """
    head, _, tail = name.partition(": ")
    details = [_neutral(part) for part in tail.split(", ") if part]
    kept = [part for part in details if not _VARIANT.fullmatch(part)]
    return ": ".join([_neutral(head), ", ".join(kept)] if kept else [_neutral(head)])


def _neutral(words: str) -> str:
    """Return words in which all people are called "person", or are left out at the start."""
    people = re.sub(_PEOPLE, _person, words)
    one = re.sub(r"\bperson(( and)? person)+\b", "person", people)
    return re.sub(r"^person (?!with crown)", "", one).lower()


def _person(found: re.Match[str]) -> str:
    if found[0].startswith("mer"):
        return "merperson"
    return "person with crown" if found[0].startswith("prince") else "person"


class _Font:
    """Images of a colour font by sequence of code points."""

    def __init__(self, path: Path) -> None:
        from fontTools.ttLib import TTFont

        font: Any = TTFont(path)
        self._glyphs: Mapping[int, str] = font.getBestCmap()
        self._ligatures = dict(_ligatures(font["GSUB"].table))
        self._images: Mapping[str, Any] = font["CBDT"].strikeData[0]

    def png(self, codes: tuple[int, ...]) -> bytes:
        """Return the PNG of an emoji."""
        glyphs = tuple(self._glyphs[c] for c in codes if c != _VARIATION_SELECTOR)
        glyph = glyphs[0] if len(glyphs) == 1 else self._ligatures[glyphs]
        return self._images[glyph].imageData


def _ligatures(table: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the glyphs that a font replaces, and the glyph that it draws for them."""
    for lookup in table.LookupList.Lookup:
        for entry in lookup.SubTable:
            inner = entry.ExtSubTable if entry.LookupType == _EXTENSION else entry
            if inner.LookupType == _LIGATURES:
                for first, following in inner.ligatures.items():
                    for each in following:
                        yield (first, *each.Component), each.LigGlyph
