"""Completeness of the campaign: every defect of 0.1.0 has a row or another test."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.faults.test_faults import FAULTS

ROOT = Path(__file__).parents[2]
DEFECTS = {*(f"D{n}" for n in range(1, 27)), *(f"N{n}" for n in range(1, 7))}
OTHER_ROWS = {"message", "held", "F12"}
"""Poor messages, what 0.1.0 did right already, and a friction."""

ELSEWHERE = {
    "D7": "tests/sweeps/test_power_cut.py::test_every_state_resumes_from_all_that_was_on_the_disk",
    "D14": "tests/sources/test_corpora.py::test_a_damaged_copy_of_the_text_is_said_and_made_again",
    "N2": "tests/mechanics/test_resampling.py::test_rows_of_zeros_are_never_drawn",
    "N3": "tests/test_docs.py::test_a_claim_that_its_numbers_do_not_carry_is_gone",
    "N4": "tests/test_docs.py::test_a_deviation_is_told",
    "N5": "tests/test_docs.py::test_a_deviation_is_told",
    "N6": "tests/eval_recipes/saebench/sparse_probing/test_sparse_probing.py::test_the_order_of_the_features_does_not_decide",
}
"""Defects that no command shows within a second, with the test that does."""

MESSAGES = {
    "checkpoint, sweep.json or records damaged": "index of a checkpoint is cut",
    "empty checkpoint file": "file of a checkpoint is empty",
    "disk full": "tests/sweeps/test_disk.py::test_release_that_does_not_fit_ends_with_one_error_and_status_1",
    "release.yaml empty": "release.yaml is empty",
    "device, dtype, context_size, group, hook, YAML, grid": "device tpu9",
    "k, seed or regularizers of another type": "k four",
    "--dry-run with impossible sizes": "buffer_tokens of 10^12 --dry-run",
    "--name of a public release": "--name of a public release",
    "--out with markup": "markup in --out",
    "path in no UTF-8, ASCII locale": "tests/eval_recipes/commands/test_console.py::test_printing_never_raises",
    "SIGHUP, SIGQUIT": "tests/test_process.py::test_first_signal_requests_and_the_second_interrupts",
    "killed after release.yaml": "killed after the manifest and before the checkpoint is removed",
    "killed in the conversion": "tests/sources/test_assets.py::test_what_a_killed_build_left_is_removed",
    "cache read-only and empty": "tests/sources/test_assets.py::test_an_unwritable_cache_is_refused",
    "stdout closed": "tests/eval_recipes/commands/test_console.py::test_printing_never_raises",
    "PYTHONHASHSEED": "tests/architectures/test_saving.py::test_keys_of_the_saved_configuration_have_one_order",
    "damaged tokens.pt": "tokens of autointerp are cut",
    "damaged steering explanation": "tests/eval_recipes/steering/generate/test_texts.py::test_damaged_explanations_are_made_again",
    "--heldout-tokens 0": "no held-out tokens",
    "group of unequal d_sae": "a group of two widths",
    "id or name too long, number, null, NUL": "id is null",
    "escape sequences": "escape sequences in an id",
    "result with 1e999, true, 400 digits, nested": "a metric of 1e999",
    "judge redirects": "judge redirects to another host",
    "judge 401, 404, down": "judge refuses the key",
    "key with a line break": "key with a line break",
    "--judge-base-url empty": "address of the judge is empty",
    "lone surrogate": "explanation with a lone surrogate and control characters",
    "regulariser returns no scalar": "tests/architectures/test_calls.py::test_what_a_regularizer_returned_is_named",
    "--group-by without end": "--group-by takes exponential time",
    "eval_batch_size_prompts=99999999999": "a batch that nothing could hold",
    "hash of a file outside the release": "files of another folder",
}
"""The table "Poor messages": the name of the fault that shows each, or another test."""


def test_every_defect_has_a_row_or_a_test() -> None:
    rows = {fault.row for fault in FAULTS} - OTHER_ROWS
    assert rows | set(ELSEWHERE) == DEFECTS
    assert not rows & set(ELSEWHERE)


def test_every_poor_message_has_a_row() -> None:
    names = {fault.name for fault in FAULTS}
    assert {m: n for m, n in MESSAGES.items() if "::" not in n and n not in names} == {}


@pytest.mark.parametrize(
    "test",
    sorted({test for test in (ELSEWHERE | MESSAGES).values() if "::" in test}),
)
def test_a_named_test_exists(test: str) -> None:
    path, name = test.split("::")
    assert name in _tests_of(ROOT / path)


@cache
def _tests_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
