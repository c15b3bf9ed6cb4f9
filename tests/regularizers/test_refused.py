"""What the page calls refused is refused, and what configurations refuse is on the page."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import saereg_plugin as sr
from tests.regularizers.refused import REFUSED, Refused
from tests.regularizers.refused_later import LATER
from tests.regularizers.synthetic import small_sae

PAGE = Path(__file__).parents[2] / "docs/methods/matrix.md"
PACKAGE = Path(sr.__file__).parent


def refusal(architecture: str, fields: dict[str, Any]) -> sr.InputError:
    with pytest.raises(sr.InputError) as caught:
        small_sae(architecture, **fields)
    return caught.value


def assert_on_page(row: str) -> None:
    assert f"| {row} | " in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", REFUSED, ids=[case.row for case in REFUSED])
def test_what_the_page_calls_refused_is_refused(case: Refused) -> None:
    assert_on_page(case.row)
    assert case.message in str(refusal(case.architecture, case.fields))


@pytest.mark.parametrize("case", REFUSED, ids=[case.row for case in REFUSED])
def test_what_is_nearest_to_it_is_not(case: Refused) -> None:
    """A check that refuses more than the row says refuses one of these, too."""
    assert len(case.allowed) > 1
    for architecture, fields in case.allowed:
        assert small_sae(architecture, **fields).step_index == 0


# What is refused in the first steps


def later(do: Callable[[Path], None], folder: Path) -> sr.InputError:
    with pytest.raises(sr.InputError) as caught:
        do(folder)
    return caught.value


@pytest.mark.parametrize(
    ("row", "do", "message"), LATER, ids=[do.__name__ for _, do, _ in LATER]
)
def test_what_the_page_calls_refused_in_training_is_refused(
    row: str, do: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    assert_on_page(row)
    assert message in str(later(do, tmp_path))


def test_the_page_lists_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8").split("## Refused combinations")[1]
    lines = [line for line in text.split("\n## ")[0].splitlines() if line[:1] == "|"]
    rows = {case.row for case in REFUSED} | {row for row, *_ in LATER}
    # two tables, each with a head and a rule
    assert len(lines) - 4 == len(rows)


# What the code refuses

NO_COMBINATION = (
    "expected d_sae of at least 1 and k from 1",
    "expected a number above 1 (the paper uses 10), or None",
    "expected 0 or more, or None",
    "is taken by this package or SAELens",
    # in the table of regularisers and architectures, where test_matrix looks
    "Use an architecture that selects latents after the ReLU",
    "it is defined for latents selected row by row",
)
"""Refusals of a single value, or told elsewhere on the page."""


def refusals() -> Iterator[tuple[tuple[str, int], str]]:
    """
    File and line of every ``raise`` by which a configuration is refused, and its words.

    Those are in the methods ``check`` of regularisers and mechanics and in all methods of the
    architectures' configurations.
    """
    architectures = [PACKAGE / "architectures" / "config.py"]
    parts = [
        path
        for folder in ("regularizers", "mechanics")
        for path in (PACKAGE / folder).rglob("*.py")
    ]
    for path in (*architectures, *parts):
        for kind in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(kind, ast.ClassDef):
                continue
            for method in kind.body:
                if not isinstance(method, ast.FunctionDef):
                    continue
                if path in architectures or method.name == "check":
                    yield from (
                        ((str(path), node.lineno), words_of(node))
                        for node in ast.walk(method)
                        if isinstance(node, ast.Raise)
                    )


def place_of(error: sr.InputError) -> tuple[str, int | None]:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename, last.lineno


def obstacles() -> Iterator[str]:
    """The words of every reason why ``sparse_step="always"`` is refused."""
    path = PACKAGE / "architectures" / "config.py"
    for method in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(method, ast.FunctionDef) and method.name == (
            "sparse_step_obstacle"
        ):
            for node in ast.walk(method):
                if isinstance(node, ast.Return) and words_of(node):
                    yield words_of(node)


def words_of(node: ast.Raise | ast.Return) -> str:
    return "".join(
        each.value
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    )


def test_every_refusal_of_a_combination_is_on_the_page() -> None:
    raised: set[tuple[str, int | None]] = set()
    for case in REFUSED:
        raised.add(place_of(refusal(case.architecture, case.fields)))
    found = dict(refusals())
    assert len(found) > 15
    # what is not of one value alone has a row, and every row is one of these
    assert {
        words
        for place, words in found.items()
        if place not in raised and not any(part in words for part in NO_COMBINATION)
    } == set()
    assert raised <= set(found)
    texts = list(found.values())
    assert all(any(part in text for text in texts) for part in NO_COMBINATION)
    # one raise has several reasons
    reasons = list(obstacles())
    assert len(reasons) == 3
    for words in reasons:
        assert any(case.message in words for case in REFUSED), words


TOLD_BEFORE = (
    # a class that does not fit its configuration, told when it is built
    "has no SparseStepMixin",
    # the same as tokens that come out of order, told by the settings of a run
    "tokens would not come in order: a fraction of",
    # no combination: a batch of another shape
    "expected [batch, d_in]",
    # no combination: activations whose scale jumps (tests/mechanics/test_norm_mask.py)
    "every activation of the batch exceeds",
)
"""Refusals in training that need no row of their own."""


def later_refusals() -> Iterator[tuple[tuple[str, int], str]]:
    """
    File and line of every ``raise InputError`` in training or linking, and its words.

    Those are in all functions of regularisers, mechanics, linking, and what the architectures do
    in a step; but for ``check`` and ``check_run``.
    """
    folders = [PACKAGE / "regularizers", PACKAGE / "mechanics"]
    paths = [path for folder in folders for path in folder.rglob("*.py")]
    steps = ("base.py", "sparse_step.py")
    paths += [PACKAGE / "architectures" / name for name in steps]
    for path in paths:
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and not function.name.startswith(
                "check"
            ):
                yield from (
                    ((str(path), node.lineno), words_of(node))
                    for node in ast.walk(function)
                    if isinstance(node, ast.Raise) and names_input_error(node)
                )


def names_input_error(node: ast.Raise) -> bool:
    return any(
        isinstance(each, ast.Name) and each.id == "InputError"
        for each in ast.walk(node)
    )


def test_every_refusal_in_training_is_on_the_page(tmp_path: Path) -> None:
    raised = {place_of(later(do, tmp_path)) for _, do, _ in LATER}
    found = dict(later_refusals())
    assert len(found) > 20
    assert {
        words
        for place, words in found.items()
        if place not in raised and not any(part in words for part in TOLD_BEFORE)
    } == set()
    texts = list(found.values())
    assert all(any(part in text for text in texts) for part in TOLD_BEFORE)
