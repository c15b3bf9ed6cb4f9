"""Results after a power cut: old, new, or named as damaged, and a resumed run mends them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from eval_recipes.results.files import SUMMARY, load_results, read_result, result_path
from eval_recipes.results.outdated import outdated_results
from eval_recipes.results.sidecar import damaged_notes
from eval_recipes.running.context import RunContext
from eval_recipes.running.run import run_evals
from tests.conftest import HOOK_NAME
from tests.eval_recipes.tiny_saes import save_release, tiny_sae
from tests.power_cut import State, recorder

pytestmark = pytest.mark.slow

EVAL = "vocabulary"
IDS = ("s0",)
FEWEST = 60


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    folder = tmp_path_factory.mktemp("cut-vocabulary")
    save_file({"wte.weight": torch.eye(16)}, folder / "e.safetensors")
    saes = {
        name: tiny_sae("no-such-model", HOOK_NAME, torch.zeros(16), seed)
        for seed, name in enumerate(IDS)
    }
    options = {"embeddings": str(folder / "e.safetensors"), "n_resamples": 20}
    return RunContext(
        save_release(folder, saes), folder / "out", options={EVAL: options}
    )


def figures(context: RunContext, out: Path) -> dict[str, Any]:
    """Return all that two equal runs have in common, by SAE."""
    found: dict[str, Any] = {}
    for subject in context.subjects:
        record = read_result(result_path(out, EVAL, subject.release, subject.sae_id))
        record.pop("eval_id")
        record.pop("datetime_epoch_millis")
        found[subject.sae_id] = record
    return found


def summary(out: Path) -> str:
    return (out / SUMMARY).read_text()


def with_threshold(context: RunContext, threshold: float) -> RunContext:
    settings = {**context.options[EVAL], "aligned_threshold": threshold}
    return replace(context, options={EVAL: settings})


def test_each_state_is_old_or_new_or_named_and_resumes(
    context: RunContext, tmp_path: Path
) -> None:
    """First a run into a new folder, then one of another configuration over its results."""
    old, new = (with_threshold(context, threshold) for threshold in (0.3, 0.5))
    out = tmp_path / "out"
    out.mkdir()
    with recorder(out) as first:
        run_evals([EVAL], replace(old, out=out))
    expected_old = figures(old, out)
    summary_old = summary(out)
    with recorder(out) as second:
        run_evals([EVAL], replace(new, out=out))
    expected_new = figures(new, out)
    number = 0
    for recording, asked, expected in (
        (first, old, [{}, expected_old]),
        (second, new, [expected_old, expected_new]),
    ):
        for state in recording.states(seed=0, samples=2):
            folder = state.write(tmp_path / f"state{number}")
            number += 1
            check(state, folder, replace(asked, out=folder), expected)
            if recording is second:
                # both summaries are whole tables of a run
                assert summary(folder).count("\n") == summary_old.count("\n")
    assert number >= FEWEST


def check(
    state: State, folder: Path, context: RunContext, expected: list[dict[str, Any]]
) -> None:
    """Each result is an old or a new one; what lacks its table is named; a rerun mends all."""
    # no result is broken, or this raises
    load_results(folder)
    notes = "\n".join(damaged_notes(folder))
    for subject in context.subjects:
        path = result_path(folder, EVAL, subject.release, subject.sae_id)
        if not path.exists():
            assert subject.sae_id not in expected[0], state.tree.keys()
            continue
        record = read_result(path)
        texts = json.dumps(record["eval_result_metrics"])
        known = [
            json.dumps(found[subject.sae_id]["eval_result_metrics"])
            for found in expected
            if found
        ]
        assert texts in known
        table = path.with_name(record["eval_result_unstructured"]["latents"]["file"])
        if not table.exists():
            assert path.name in notes
    assert outdated_results(folder) == {}
    outcome = run_evals([EVAL], context, resume=True)
    assert outcome.failures == [] and outcome.outdated == {}
    assert figures(context, folder) == expected[1]
    assert damaged_notes(folder) == []
    # nothing half-written stays
    assert [path for path in folder.rglob("*.tmp")] == []
