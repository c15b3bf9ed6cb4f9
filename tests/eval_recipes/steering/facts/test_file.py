"""Files of dated facts: this package's own, both kinds of file, and what is refused."""

from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from eval_recipes.steering.facts.file import (
    EMBEDDED,
    OPTIONAL,
    REQUIRED,
    asked,
    facts_hash,
    read_facts,
)
from saereg_plugin.errors import InputError

ROW = {
    "date": "2005-05-03",
    "template": "It is {date}. The president of the United States is",
    "holder": "George W. Bush",
    "later_holder": "Barack Obama",
    "source": "Wikipedia: List of presidents of the United States",
}
OTHER = {
    **ROW,
    "template": "It is {date}. The capital of Kazakhstan is",
    "holder": "Almaty",
    "later_holder": "Astana",
    "changed": "2009-01-20",
    "later_date": "2011-05-03",
}


def write(path: Path, *rows: Any) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_the_embedded_facts_are_sixty_different_questions_of_four_decades() -> None:
    facts = read_facts(EMBEDDED)
    assert len(facts) == len({fact.template for fact in facts}) == 60
    assert {fact.date.year // 10 for fact in facts} == {199, 200, 201, 202}
    for fact in facts:
        assert fact.changed is not None and fact.later_date is not None
        assert fact.date < fact.changed <= fact.later_date
        assert fact.date.year >= 1990 and fact.later_date.year <= 2023
        assert fact.source.startswith("Wikipedia: ")
        assert fact.template.startswith("It is {date}. ")


def test_a_date_is_written_in_english() -> None:
    text = "It is {date}. The president is"
    assert asked(text, date(2005, 5, 3)) == "It is 3 May 2005. The president is"
    assert asked(text, date(1999, 12, 31)).startswith("It is 31 December 1999.")


def test_both_kinds_of_file_hold_the_same_facts(tmp_path: Path) -> None:
    lines = write(tmp_path / "facts.jsonl", ROW, "", OTHER)
    table = tmp_path / "facts.csv"
    # as a spreadsheet writes it, with a mark in front
    with table.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, [*REQUIRED, *OPTIONAL])
        writer.writeheader()
        writer.writerows([ROW, OTHER])
    assert read_facts(lines) == read_facts(str(table))
    first, second = read_facts(lines)
    assert first.changed is first.later_question is None
    assert second.later_question == "It is 3 May 2011. The capital of Kazakhstan is"


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    one, two = (
        write(tmp_path / f"{name}.jsonl", ROW, OTHER) for name in ("one", "two")
    )
    assert facts_hash(one) == facts_hash(two) != facts_hash(EMBEDDED)


BAD: dict[str, tuple[Any, str]] = {
    "json": ("{", "is no JSON"),
    "list": ("[1]", "expected a JSON object"),
    "missing": ({**ROW, "source": None}, "lacks 'source'"),
    "empty": ({**ROW, "holder": " "}, "has ' ' as 'holder'"),
    "number": ({**ROW, "date": 2005}, "has 2005 as 'date'"),
    "unknown": ({**ROW, "later": "x"}, "Did you mean 'later_"),
    "day": ({**ROW, "date": "3 May 2005"}, "'3 May 2005' as 'date'; expected a day"),
    "spelling": ({**ROW, "date": "20050503"}, "expected a day such as 2005-05-03"),
    "month": ({**ROW, "date": "2005-13-03"}, "expected a day such as"),
    "template": ({**ROW, "template": "The president is"}, "exactly once"),
    "slots": ({**ROW, "template": "{date} {date}"}, "exactly once"),
    "same": ({**ROW, "later_holder": "George W. Bush"}, "neither of which begins"),
    "begins": ({**ROW, "later_holder": "George W. Bush II"}, "neither of which begins"),
    "order": ({**ROW, "changed": "2005-05-03"}, "expected date before changed"),
    "later": ({**OTHER, "later_date": "2008-01-01"}, "expected date before changed"),
    "twice": (ROW, "as line 1; expected each question once"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_fact_is_refused_with_its_line(
    bad: tuple[Any, str], tmp_path: Path
) -> None:
    row, message = bad
    file = write(tmp_path / "facts.jsonl", ROW, "", row)
    with pytest.raises(InputError, match="line 3: the fact") as caught:
        read_facts(file)
    assert message in str(caught.value)
    assert str(tmp_path / "facts.jsonl") in str(caught.value)


def test_a_bad_table_is_refused_with_its_line(tmp_path: Path) -> None:
    table = tmp_path / "facts.csv"
    head = ",".join(REQUIRED)
    for text, message in (
        (f"{head}\n2005-05-03,It is {{date}}. X is,A\n", "line 2: .* 5; expected as"),
        (f"{head}\na,b,c,d,e,f\n", "line 2: .*cells"),
        (f"{head},who\n2005-05-03,{{date}} X,A,B,c,d\n", "line 2: .*has 'who'"),
        (f'{head}\n"2005\n', "line 2: .*cannot be read"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=message):
            read_facts(str(table))


def test_what_is_no_file_of_facts_is_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", ROW)
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    for place, message in (
        (one, "has 1 facts; expected 2"),
        (str(binary), "is not UTF-8"),
        (str(tmp_path / "no.jsonl"), "cannot be read"),
        (str(tmp_path), "no file of a known kind"),
        ("embeded", "'embedded' for the package's own"),
    ):
        with pytest.raises(InputError, match=message):
            read_facts(place)
