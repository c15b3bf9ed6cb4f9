"""Texts and their labels, read from files of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval_recipes.statistics.interval import Array
from saereg_plugin.checks import is_finite, require_plain
from saereg_plugin.errors import InputError, brief, suggest
from saereg_plugin.files import read_regular

FEWEST_TEXTS = 20
FEWEST_LABELS = 20
"""Fewest labelled texts; of quality, half as many good and half as many bad ones."""
FEWEST_GROUPS = 10
"""Fewest groups of labelled texts: two for each fold."""

_MAX_BYTES = 1 << 32
_LINES = 'Give a file in UTF-8 with one JSON object a line, such as {"id": 1, "text": "..."}.'


@dataclass(frozen=True)
class Texts:
    """
    Texts with their ids.

    Attributes:
        ids: different from each other.
        texts: never empty.
        groups: number of each text's group; texts of one group are never on both sides of a
            split. Without groups, equal texts are a group.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    groups: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Labels:
    """Difficulty and quality (1 good, 0 bad) of each text; NaN where there is no label."""

    difficulty: Array
    quality: Array

    @classmethod
    def none(cls, n: int) -> Labels:
        """Return no labels for ``n`` texts."""
        return cls(np.full(n, np.nan), np.full(n, np.nan))


def read_texts(path: Path) -> Texts:
    """
    Read texts: one JSON object a line with ``id``, ``text`` and optionally ``group``.

    Raises:
        InputError: for a file that cannot be read, a missing or repeated id, an empty text, a
            group on some lines only, or too few texts. The message names the line.
    """
    ids: dict[str, str] = {}
    texts: list[str] = []
    groups: list[str] = []
    for where, record in _records(path):
        text = record.get("text")
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"{where} has the text {brief(text)}; expected a text that is not empty. Add one, "
                "or leave the line out."
            )
        _add_id(ids, where, record)
        texts.append(text)
        if record.get("group") is not None:
            groups.append(_name("group", where, record["group"]))
    if len(texts) < FEWEST_TEXTS:
        raise InputError(
            f"File {str(path)!r} has {len(texts)} texts; expected {FEWEST_TEXTS} or more."
        )
    if groups and len(groups) < len(texts):
        raise InputError(
            f"File {str(path)!r} has a group on {len(groups)} of {len(texts)} lines; expected one "
            "on all or on none."
        )
    numbers = np.unique(groups or texts, return_inverse=True)[1]
    return Texts(tuple(ids), tuple(texts), numbers.astype(np.intp))


def read_labels(
    path: Path,
    texts: Texts,
    *,
    difficulty: str = "difficulty",
    quality: str = "quality",
) -> Labels:
    """
    Read labels: one JSON object a line with ``id`` and one or both of two fields.

    The file may be that of the texts. A field that is missing or null is no label.

    Args:
        path: the file.
        texts: the texts whose ids count.
        difficulty: field with a finite number, larger if a text is harder.
        quality: field with 1 or true for a good text, 0 or false for a bad one.

    Raises:
        InputError: for a missing, repeated or unknown id, another value, or too few labels.
    """
    place = {one: number for number, one in enumerate(texts.ids)}
    seen: dict[str, str] = {}
    fields: set[str] = set()
    labels = Labels.none(len(texts))
    for where, record in _records(path):
        number = place.get(_add_id(seen, where, record))
        if number is None:
            raise InputError(
                f"{where} has the id {brief(record['id'])}, which no text has; expected an id of "
                f"the texts. {suggest(str(record['id']), texts.ids)}"
            )
        fields |= set(record)
        labels.difficulty[number] = _difficulty(difficulty, where, record)
        labels.quality[number] = _quality(quality, where, record)
    if np.isnan(labels.difficulty).all() and np.isnan(labels.quality).all():
        known = sorted(fields - {"id", "text", "group"})
        raise InputError(
            f"File {str(path)!r} has no label in {difficulty!r} or {quality!r}; expected one or "
            f"both. {suggest(difficulty, known)} Other names: --difficulty, --quality."
        )
    _require_enough(labels, texts.groups, path)
    return labels


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place, for messages, and the object of each line that is not empty."""
    content = read_regular(path, remedy=_LINES, max_bytes=_MAX_BYTES)
    # not splitlines(), which would also split at rare breaks inside texts
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"Line {number} of {str(path)!r}"
        try:
            record = json.loads(line.decode("utf-8"), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is no JSON ({error}). {_LINES}") from error
        if not isinstance(record, dict):
            raise InputError(f"{where} is {brief(record)}. {_LINES}")
        require_plain(where, record)
        yield where, record


def _refuse(token: str) -> None:
    raise ValueError(f"{token} is not JSON")


def _name(field: str, where: str, value: object) -> str:
    """Return an id or group as text."""
    known = isinstance(value, str | int) and not isinstance(value, bool)
    if not known or not str(value).strip():
        raise InputError(
            f"{where} has the {field} {brief(value)}; expected text or a whole number. Add it."
        )
    return str(value)


def _add_id(seen: dict[str, str], where: str, record: dict[str, Any]) -> str:
    """Remember and return the id of a line; refuse one that is missing or repeated."""
    if "id" not in record:
        raise InputError(f"{where} has no id; expected text or a whole number. Add it.")
    found = _name("id", where, record["id"])
    if found in seen:
        raise InputError(
            f"{where} has the id {found!r}, as {seen[found].lower()} has; expected different "
            "ids. Change one, or leave it out."
        )
    seen[found] = where
    return found


def _difficulty(field: str, where: str, record: dict[str, Any]) -> float:
    value = record.get(field)
    if value is None:
        return np.nan
    if not is_finite(value):
        raise InputError(
            f"{where} has {field} = {brief(value)}; expected a finite number. Correct it, or "
            "leave it out."
        )
    return float(value)


def _quality(field: str, where: str, record: dict[str, Any]) -> float:
    value = record.get(field)
    if value is None:
        return np.nan
    if value not in (0, 1):
        raise InputError(
            f"{where} has {field} = {brief(value)}; expected 1 or true (good), or 0 or false "
            "(bad). Correct it, or leave it out."
        )
    return float(value)


def _require_enough(labels: Labels, groups: NDArray[np.intp], path: Path) -> None:
    """Refuse labels that cannot be split into folds."""
    known = ~np.isnan(labels.difficulty)
    if known.any():
        _require_groups("difficulty", known, groups, FEWEST_LABELS, FEWEST_GROUPS, path)
        if np.ptp(labels.difficulty[known]) == 0:
            raise InputError(
                f"File {str(path)!r} has the same difficulty for all texts; expected different "
                "ones. Leave the field out."
            )
    if not np.isnan(labels.quality).all():
        for value, name in ((1, "good"), (0, "bad")):
            own = labels.quality == value
            half: Sequence[int] = (FEWEST_LABELS // 2, FEWEST_GROUPS // 2)
            _require_groups(f"quality ({name})", own, groups, *half, path)


def _require_groups(
    name: str,
    known: NDArray[np.bool_],
    groups: NDArray[np.intp],
    fewest: int,
    fewest_groups: int,
    path: Path,
) -> None:
    n, n_groups = int(known.sum()), len(np.unique(groups[known]))
    if n < fewest or n_groups < fewest_groups:
        raise InputError(
            f"File {str(path)!r} labels {n} texts of {n_groups} groups with {name}; expected "
            f"{fewest} or more, of {fewest_groups} groups or more (equal texts are one group). "
            "Label more texts."
        )
