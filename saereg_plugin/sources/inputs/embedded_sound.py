"""Speech with transcripts and sounds without speech, out of packages."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from saereg_plugin.machine import require_extra
from saereg_plugin.sources.assets import Asset, fetch_archive
from saereg_plugin.sources.inputs.listed import (
    HALF,
    ListedData,
    held_out,
    kept_table,
    numbered,
)
from saereg_plugin.sources.inputs.sound import read_clip
from saereg_plugin.sources.registries import members

SPEECH = Asset(
    requirement="asterisk-core-sounds-en-wav=1.6.1-1",
    archive="asterisk-core-sounds-en-wav_1.6.1-1_all.deb",
    sha256="2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
    size=18_272_864,
    member="usr/share/asterisk/sounds/en_US_f_Allison/",
)
"""Prompts of a telephone exchange, one speaker, 8 kHz (CC-BY-SA-3.0)."""
TRANSCRIPTS = Asset(
    requirement="asterisk-core-sounds-en=1.6.1-1",
    archive="asterisk-core-sounds-en_1.6.1-1_all.deb",
    sha256="973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
    size=22_844,
    member="usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz",
)
"""What is said in them."""
SOUNDS = Asset(
    requirement="supersonic-scsynth-samples@0.84.2",
    archive="supersonic-scsynth-samples-0.84.2.tgz",
    sha256="aff0b03208adb5dc7612dc7a4e86d55161188326bcff4dbc2d20ce9e1b94238c",
    size=34239150,
    member="package/samples/",
)
"""Samples of drums, tabla, synthesizers, vinyl and rooms (CC0-1.0)."""

_FORMAT = 1
"""Raised whenever a table in the cache changes, so that old tables are built again."""
_LONGEST_SECONDS = 30.0
"""Whisper's window."""
_FEWEST_WORDS = 2


def open_speech(name: str) -> ListedData:
    """
    Return the spoken prompts of two words or more, up to 30 s; half is held out.

    Prompts that say the same are on one side.

    Raises:
        InputError: if an archive cannot be fetched, or the extra ``audio`` is missing.
    """
    require_extra("audio", f"The data {name!r}")
    source = {"archives": [SPEECH.sha256, TRANSCRIPTS.sha256], "format": _FORMAT}
    table = kept_table("speech", source, _prompts)
    return _listed(name, source, table)


def open_non_speech(name: str) -> ListedData:
    """
    Return 206 sounds without speech, in mono; half is held out.

    Takes of one sound are on one side, as are sounds whose names share their first two words.

    Raises:
        InputError: if the archive cannot be fetched, or the extra ``audio`` is missing.
    """
    require_extra("audio", f"The data {name!r}")
    source = {"archives": [SOUNDS.sha256], "format": _FORMAT}
    table = kept_table("non-speech", source, _samples)
    return _listed(name, source, table)


def _listed(name: str, source: Any, table: pd.DataFrame) -> ListedData:
    files, texts, titles = (list(table[c]) for c in ("file", "text", "name"))
    return ListedData(
        name=name,
        takes="clips",
        read=lambda n: read_clip(files[n], titles[n], text=texts[n]),
        titles=titles,
        source=source,
        heldout=[held_out(key, HALF) for key in table["origin"]],
        groups=numbered(list(table["origin"])),
    )


def _files(asset: Asset, ending: str) -> Iterator[tuple[str, bytes]]:
    """Yield name without ending, and content, of the files in an archive's folder."""
    archive = fetch_archive(asset)
    found = members(
        archive, lambda n: n.startswith(asset.member) and n.endswith(ending)
    )
    for path, content in found:
        yield path.removeprefix(asset.member).removesuffix(ending), content.read()


def _prompts(_scratch: Path) -> pd.DataFrame:
    said = transcripts(_transcript_file())
    rows = [
        {"name": name, "file": file, "text": said[name], "origin": sentence(said[name])}
        for name, file in sorted(_files(SPEECH, ".wav"))
        if len(sentence(said.get(name, "")).split()) >= _FEWEST_WORDS
        and read_clip(file, name).seconds <= _LONGEST_SECONDS
    ]
    return pd.DataFrame(rows)


def _transcript_file() -> str:
    wanted = TRANSCRIPTS.member
    found = members(fetch_archive(TRANSCRIPTS), lambda name: name == wanted)
    return "".join(gzip.decompress(file.read()).decode() for _, file in found)


def transcripts(listed: str) -> dict[str, str]:
    """
    Return what is said, by name, out of lines "name: text".

    Notes in brackets are left out, and so are prompts that consist of them: tones, silence.
    """
    found: dict[str, str] = {}
    for line in io.StringIO(listed):
        name, mark, text = line.strip().partition(": ")
        spoken = re.sub(r"[\[(<].*?(?:[\])>]|$)", "", text).replace("...", " ")
        if mark and not name.startswith(";") and spoken.strip():
            found[name] = " ".join(spoken.split())
    return found


def sentence(text: str) -> str:
    """Return a text's words in lower case, the key of what is said twice."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def _samples(_scratch: Path) -> pd.DataFrame:
    rows = [
        {"name": name, "file": file, "text": None, "origin": origin(name)}
        for name, file in sorted(_files(SOUNDS, ".flac"))
    ]
    return pd.DataFrame(rows)


def origin(name: str) -> str:
    """
    Return the first two words of a sample's name, without the number of the take.

    >>> origin("tabla_ghe3"), origin("drum_tom_hi_soft")
    ('tabla_ghe', 'drum_tom')
    """
    return "_".join(word.rstrip("0123456789") for word in name.split("_")[:2])
