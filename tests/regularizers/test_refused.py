"""What the page calls refused is refused, and what configurations refuse is on the page."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import saereg_plugin as sr
from tests.regularizers.refused import REFUSED
from tests.regularizers.synthetic import (
    CONTEXT,
    D_IN,
    in_batches,
    small_sae,
    token_data,
)
from tests.training import forward, make_trainer, run_steps

PAGE = Path(__file__).parents[2] / "docs/methods/matrix.md"
PACKAGE = Path(sr.__file__).parent


def refusal(architecture: str, fields: dict[str, Any]) -> sr.InputError:
    with pytest.raises(sr.InputError) as caught:
        small_sae(architecture, **fields)
    return caught.value


def assert_on_page(row: str) -> None:
    assert f"| {row} | " in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("row", "architecture", "fields", "message"),
    REFUSED,
    ids=[row for row, *_ in REFUSED],
)
def test_what_the_page_calls_refused_is_refused(
    row: str, architecture: str, fields: dict[str, Any], message: str
) -> None:
    assert_on_page(row)
    assert message in str(refusal(architecture, fields))
    # the same without what makes it impossible
    assert small_sae(architecture).step_index == 0


# What is refused in the first steps

MUTUAL: dict[str, Any] = {
    "regularizers": [{"name": "mutual_features", "coefficient": 1.0}]
}


def shuffled(_: Path) -> None:
    temporal = {"name": "temporal_difference", "context_size": CONTEXT}
    rows = token_data(8)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    forward(small_sae(regularizers=[temporal]), rows[order])


def single(_: Path) -> None:
    forward(small_sae(**MUTUAL), token_data(2))


def linked(**fields: Any) -> dict[str, Any]:
    saes = {"a": small_sae(**MUTUAL), "b": small_sae(**{**MUTUAL, **fields})}
    return sr.link_saes(saes)


def of_other_width(_: Path) -> None:
    linked(d_in=D_IN // 2)


def of_two_hooks(_: Path) -> None:
    saes = linked()
    for name, sae in saes.items():
        sae.cfg.metadata.hook_name = name
    forward(saes["a"], token_data(2))


def out_of_step(_: Path) -> None:
    saes = linked()
    run_steps(make_trainer(saes["a"], in_batches(token_data(8), 32)), 2)


def anchored(**settings: Any) -> None:
    anchor = {"name": "vocabulary_anchor", "top": 2, **settings}
    forward(small_sae(regularizers=[anchor]), token_data(2))


def without_embeddings(_: Path) -> None:
    anchored()


def of_other_embeddings(folder: Path) -> None:
    path = folder / "narrow.safetensors"
    save_file({"wte.weight": torch.ones(20, D_IN - 1)}, path)
    anchored(embeddings=str(path))


def second_backward_pass(__: Path) -> None:
    sae = small_sae(regularizers=[{"name": "weight_penalty", "coefficient": 1.0}])
    for _ in range(2):
        forward(sae, token_data(2)).loss.backward()


LATER: list[tuple[str, Callable[[Path], None], str]] = [
    ("`temporal_difference` without tokens in order", shuffled, "do not come in order"),
    ("`mutual_features` with a single SAE", single, "linked to no other"),
    ("linked SAEs of different d_in", of_other_width, "have different d_in"),
    ("linked SAEs of different hooks", of_two_hooks, "expected one hook"),
    (
        "linked SAEs that are out of step",
        out_of_step,
        "are not trained side by side",
    ),
    (
        "`vocabulary_anchor` without embeddings",
        without_embeddings,
        "does not say which model's embeddings to take",
    ),
    (
        "`vocabulary_anchor` with embeddings of another width",
        of_other_embeddings,
        "have 15 dimensions, the SAE has d_in=16",
    ),
    (
        "a second backward pass before the optimiser's step",
        second_backward_pass,
        "A second backward pass",
    ),
]
"""First cell of the page's second table, what is refused, and part of the message."""


@pytest.mark.parametrize(
    ("row", "do", "message"), LATER, ids=[row for row, *_ in LATER]
)
def test_what_the_page_calls_refused_in_training_is_refused(
    row: str, do: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    assert_on_page(row)
    with pytest.raises(sr.InputError) as caught:
        do(tmp_path)
    assert message in str(caught.value)


def test_the_page_lists_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8").split("## Refused combinations")[1]
    lines = [line for line in text.split("\n## ")[0].splitlines() if line[:1] == "|"]
    # two tables, each with a head and a rule
    assert len(lines) - 4 == len(REFUSED) + len(LATER)


# What the code refuses

NO_COMBINATION = (
    "expected k of at least 1",
    "expected a number above 1 (the paper uses 10), or None",
    "expected 0 or more, or None",
    "is taken by this package or SAELens",
    # in the table of regularisers and architectures, where test_matrix looks
    "Use an architecture that selects latents after the ReLU",
)
"""Refusals of a single value, or told elsewhere on the page."""


def refusals() -> Iterator[tuple[tuple[str, int], str]]:
    """
    File and line of every ``raise`` by which a configuration is refused, and its words.

    Those are in the methods ``check`` of regularisers and mechanics and in all methods of the
    architectures' configurations.
    """
    architectures = [
        PACKAGE / "architectures" / name for name in ("config.py", "topk_fields.py")
    ]
    parts = [
        path
        for folder in ("regularizers", "mechanics")
        for path in (PACKAGE / folder).glob("*.py")
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


def obstacles() -> Iterator[str]:
    """The words of every reason why ``sparse_step="always"`` is refused."""
    path = PACKAGE / "architectures" / "topk_fields.py"
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
    for _, architecture, fields, _ in REFUSED:
        last = traceback.extract_tb(refusal(architecture, fields).__traceback__)[-1]
        raised.add((last.filename, last.lineno))
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
    assert len(reasons) == 2
    for words in reasons:
        assert any(message in words for *_, message in REFUSED), words
