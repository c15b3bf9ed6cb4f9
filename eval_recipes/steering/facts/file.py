"""Dated facts and the files that hold them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from saereg_plugin.errors import InputError, suggest
from saereg_plugin.files import read_regular

EMBEDDED = "embedded"
"""Name of the 60 facts in this package."""

REQUIRED = ("date", "template", "holder", "later_holder", "source")
OPTIONAL = ("changed", "later_date")
SLOT = "{date}"

_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_EXPECTED = (
    "expected dated facts as JSON objects, one a line (.jsonl), or as a table with a header (.csv), "
    f"with {', '.join(REQUIRED)} and, if known, {' and '.join(OPTIONAL)}"
)
_MAX_BYTES = 1 << 26


@dataclass(frozen=True)
class Fact:
    """A question whose answer changed after a date."""

    date: date
    """At which the question is asked."""
    template: str
    """The question, with ``{date}`` once; the answer follows after a space."""
    holder: str
    """The answer at the date."""
    later_holder: str
    """The answer after the change."""
    source: str
    changed: date | None = None
    """Day of the change."""
    later_date: date | None = None
    """A day on which ``later_holder`` is the answer."""

    @property
    def question(self) -> str:
        """The question at the date."""
        return asked(self.template, self.date)

    @property
    def later_question(self) -> str | None:
        """The question at the later date; None without one."""
        later = self.later_date
        return None if later is None else asked(self.template, later)


def asked(template: str, day: date) -> str:
    """
    Return a template's text at a day, with English names of months in every locale.

    >>> asked("It is {date}. The president is", date(2005, 5, 3))
    'It is 3 May 2005. The president is'
    """
    return template.replace(SLOT, f"{day.day} {_MONTHS[day.month - 1]} {day.year}")


def read_facts(place: str) -> tuple[Fact, ...]:
    """
    Read dated facts from a file, or this package's own (``embedded``).

    Raises:
        InputError: if the file cannot be read, or a fact in it is unusable, naming its line.
    """
    text = _text(place)
    rows = _csv_rows if place.lower().endswith(".csv") else _json_rows
    facts: list[Fact] = []
    lines: dict[str, int] = {}
    for line, values in rows(place, text):
        fact = _fact(place, line, values)
        first = lines.setdefault(fact.question, line)
        if first != line:
            raise _refused(
                place,
                line,
                f"asks {fact.question!r}, as line {first}",
                "each question once",
            )
        facts.append(fact)
    if len(facts) < 2:
        raise InputError(
            f"File {place!r} has {len(facts)} facts; expected 2 or more. Intervals are over facts."
        )
    return tuple(facts)


def facts_hash(place: str) -> str:
    """Return the SHA-256 of the facts' text; raises InputError if it cannot be read."""
    return hashlib.sha256(_text(place).encode()).hexdigest()


def _text(place: str) -> str:
    if place == EMBEDDED:
        own = files("eval_recipes.steering.facts").joinpath("dated_facts.jsonl")
        return own.read_text(encoding="utf-8")
    if not place.lower().endswith((".jsonl", ".csv")):
        raise InputError(
            f"Facts {place!r} are no file of a known kind; {_EXPECTED}, or {EMBEDDED!r} for the "
            "package's own."
        )
    content = read_regular(
        Path(place), remedy=f"It was given as facts; {_EXPECTED}.", max_bytes=_MAX_BYTES
    )
    try:
        # spreadsheets write a mark in front
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"File {place!r} is not UTF-8 ({error}); {_EXPECTED}, in UTF-8."
        ) from error


def _refused(place: str, line: int, what: str, expected: str) -> InputError:
    where = "Embedded facts" if place == EMBEDDED else f"File {place!r}"
    return InputError(f"{where}, line {line}: the fact {what}; expected {expected}.")


def _json_rows(place: str, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number of each line that is not empty, from 1, and its object."""
    for line, written in enumerate(text.split("\n"), 1):
        if not written.strip():
            continue
        try:
            found: Any = json.loads(written)
        except ValueError as error:
            raise _refused(place, line, f"is no JSON ({error})", "an object") from error
        if not isinstance(found, dict):
            raise _refused(place, line, f"is {written[:40]!r}", "a JSON object")
        yield line, found


def _csv_rows(place: str, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number of each record's last line, and its cells; empty cells are left out."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise _refused(
                    place,
                    reader.line_num,
                    f"has another number of cells than the header's {len(reader.fieldnames or ())}",
                    "as many",
                )
            yield reader.line_num, {name: cell for name, cell in row.items() if cell}
    except csv.Error as error:
        raise _refused(
            place,
            # DictReader's own number is that of the last whole record
            reader.reader.line_num,
            f"cannot be read ({error})",
            "cells in quotes that end",
        ) from error


def _fact(place: str, line: int, values: Mapping[str, Any]) -> Fact:
    known = (*REQUIRED, *OPTIONAL)
    for name in values:
        if name not in known:
            raise _refused(
                place, line, f"has {name!r}", f"known names ({suggest(name, known)})"
            )
    for name in known:
        value = values.get(name)
        if value is None and name in OPTIONAL:
            continue
        if not isinstance(value, str) or not value.strip():
            said = "lacks" if value is None else f"has {value!r} as"
            raise _refused(place, line, f"{said} {name!r}", "a text that is not empty")
    days: dict[str, date] = {}
    for name in ("date", *OPTIONAL):
        if values.get(name) is None:
            continue
        wrong = _refused(
            place, line, f"has {values[name]!r} as {name!r}", "a day such as 2005-05-03"
        )
        try:
            days[name] = date.fromisoformat(values[name])
        except ValueError as error:
            raise wrong from error
        # newer versions of Python also read other spellings
        if days[name].isoformat() != values[name]:
            raise wrong
    fact = Fact(
        date=days["date"],
        template=values["template"].strip(),
        holder=values["holder"].strip(),
        later_holder=values["later_holder"].strip(),
        source=values["source"].strip(),
        changed=days.get("changed"),
        later_date=days.get("later_date"),
    )
    _check(place, line, fact)
    return fact


def _check(place: str, line: int, fact: Fact) -> None:
    if fact.template.count(SLOT) != 1:
        raise _refused(
            place,
            line,
            f"has the template {fact.template!r}",
            f"{SLOT} in it exactly once",
        )
    holders = (fact.holder, fact.later_holder)
    one, other = sorted(holders, key=len)
    if other.startswith(one):
        raise _refused(
            place,
            line,
            f"has the holders {fact.holder!r} and {fact.later_holder!r}",
            "names neither of which begins with the other, which would be likelier by that alone",
        )
    order = [day for day in (fact.date, fact.changed, fact.later_date) if day]
    if order != sorted(order) or fact.date in order[1:]:
        listed = ", ".join(str(day) for day in order)
        raise _refused(
            place,
            line,
            f"has the days {listed}",
            "date before changed, and changed not after later_date",
        )
