"""What a resumed run keeps and what it does again; one small evaluation, nothing mocked."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from eval_recipes.registry import RECIPES, load_evaluation
from eval_recipes.results.files import ResultKey, keyed, read_result, result_path
from eval_recipes.results.outdated import outdated_notes, outdated_results
from eval_recipes.running.context import ModelCache, RunContext
from eval_recipes.running.heldout import HeldOutTable, heldout_of
from eval_recipes.running.plan import (
    differing_settings,
    result_keys,
    subject_hashes,
)
from eval_recipes.running.run import run_evals
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.running import counting
from tests.eval_recipes.tiny_saes import save_release, tiny_sae

pytestmark = pytest.mark.slow

MODULE = "tests.eval_recipes.running.counting"
SINGLE = f"{MODULE}:CountingEvaluation"
OVER_GROUPS = f"{MODULE}:OverGroups"
IDS = ["s0", "s1", "s2"]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Enter an evaluation in the registry for one test, with clean counts."""

    def enter(place: str) -> None:
        monkeypatch.setitem(RECIPES, "counting", place)

    counting.EVALUATED.clear()
    enter(SINGLE)
    yield enter
    counting.STOP_AFTER.clear()


@pytest.fixture
def context(
    tmp_path: Path,
    model_name: str,
    register: Callable[[str], None],  # noqa: ARG001
) -> RunContext:
    saes = {
        name: tiny_sae(model_name, HOOK_NAME, torch.zeros(576), seed)
        for seed, name in enumerate(IDS)
    }
    return RunContext(save_release(tmp_path / "resumed", saes), tmp_path / "out")


def evaluated(context: RunContext, *, resume: bool = True) -> list[str]:
    """Run, and return whom the evaluation evaluated."""
    counting.EVALUATED.clear()
    outcome = run_evals(["counting"], context, resume=resume)
    assert outcome.failures == []
    assert sorted(outcome.frame["sae_id"]) == sorted(
        subject.sae_id for subject in context.subjects
    )
    return list(counting.EVALUATED)


def path_of(context: RunContext, sae_id: str) -> Path:
    return result_path(context.out, "counting", "resumed", sae_id)


def test_a_second_run_keeps_everything_only_if_it_resumes(context: RunContext) -> None:
    assert evaluated(context) == IDS
    written = {sae_id: path_of(context, sae_id).read_bytes() for sae_id in IDS}
    assert evaluated(context) == []
    assert written == {sae_id: path_of(context, sae_id).read_bytes() for sae_id in IDS}
    assert evaluated(context, resume=False) == IDS


def test_a_run_without_resume_leaves_what_a_resumed_one_keeps(
    context: RunContext,
) -> None:
    evaluated(context, resume=False)
    assert evaluated(context) == []
    block = read_result(path_of(context, "s1"))["eval_result_unstructured"]["saereg"]
    assert (block["group"], block["seed"]) == ("tiny", 1)
    assert len(block["key"]) == 64


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def put_nan(path: Path) -> None:
    record = json.loads(path.read_text())
    record["eval_result_metrics"]["weights"]["norm"] = float("nan")
    path.write_text(json.dumps(record))


def drop_key(path: Path) -> None:
    record = json.loads(path.read_text())
    del record["eval_result_unstructured"]["saereg"]["key"]
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("damage", [Path.unlink, cut_short, put_nan, drop_key])
def test_what_is_missing_or_damaged_is_done_again(
    context: RunContext, damage: Callable[[Path], None]
) -> None:
    evaluated(context)
    before = read_result(path_of(context, "s1"))["eval_result_metrics"]
    damage(path_of(context, "s1"))
    assert evaluated(context) == ["s1"]
    assert read_result(path_of(context, "s1"))["eval_result_metrics"] == before


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"dtype": "bfloat16"},
        {"data": "embedded"},
        {"heldout_tokens": 32},
        {"context_size": 16},
        {"memory_gib": 1.0},
        {"batch_size_prompts": 8},
        {"options": {"counting": {"factor": 2.0}}},
    ],
)
def test_another_configuration_is_another_result(
    context: RunContext, changes: dict[str, Any]
) -> None:
    evaluated(context)
    assert evaluated(replace(context, **changes)) == IDS
    assert evaluated(replace(context, **changes)) == []
    assert evaluated(context) == IDS


def test_the_place_of_artefacts_and_what_concerns_others_change_nothing(
    context: RunContext, tmp_path: Path
) -> None:
    evaluated(context)
    changed = replace(
        context,
        artifacts=tmp_path / "elsewhere",
        options={"core": {"eval_batch_size_prompts": 2}},
    )
    assert evaluated(changed) == []
    assert evaluated(replace(context, subjects=context.subjects[:2])) == []


def test_another_model_of_the_same_name_is_another_result(
    context: RunContext, model: HookedTransformer, model_name: str
) -> None:
    evaluated(context)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.blocks[3].mlp.W_in[0, 0] += 0.5  # pyright: ignore[reportIndexIssue]
    for held in (model, changed):
        other = replace(context, models=ModelCache())
        other.models.hold(held, model_name, dtype="float32", device="cpu")
        assert evaluated(other) == IDS
        assert evaluated(other) == []


def test_another_text_under_the_same_path_is_another_result(
    context: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting.CountingEvaluation, "reads_text", True)
    corpus = tmp_path / "corpus"
    for split in ("train", "test"):
        path = corpus / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"text": f"a {split} text"}))
    own = replace(context, corpus=str(corpus), heldout_tokens=4)
    assert evaluated(own) == IDS
    assert evaluated(own) == []
    (corpus / "test.jsonl").write_text(json.dumps({"text": "a longer test text"}))
    assert evaluated(own) == IDS


def test_a_text_that_an_evaluation_does_not_read_changes_nothing(
    context: RunContext,
) -> None:
    assert evaluated(context) == IDS
    assert evaluated(replace(context, corpus="no/such-corpus")) == []


def test_thread_count_is_in_the_key(context: RunContext) -> None:
    evaluated(context)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert evaluated(context) == IDS
    finally:
        torch.set_num_threads(threads)


def test_another_sae_of_the_same_name_is_evaluated(
    context: RunContext, model_name: str
) -> None:
    evaluated(context)
    saes = {
        name: tiny_sae(model_name, HOOK_NAME, torch.zeros(576), seed)
        for seed, name in ((0, "s0"), (7, "s1"), (2, "s2"))
    }
    folder = context.out.parent / "resumed"
    again = replace(context, subjects=save_release(folder, saes))
    assert evaluated(again) == ["s1"]


def test_a_run_that_was_killed_goes_on_where_it_stopped(context: RunContext) -> None:
    counting.STOP_AFTER.append(2)
    with pytest.raises(counting.Killed):
        evaluated(context)
    counting.STOP_AFTER.clear()
    assert evaluated(context) == ["s2"]


def test_an_interrupted_rerun_leaves_what_it_did_not_come_to(
    context: RunContext,
) -> None:
    evaluated(context)
    before = {sae_id: path_of(context, sae_id).read_bytes() for sae_id in IDS}
    changed = replace(context, options={"counting": {"factor": 2.0}})
    counting.STOP_AFTER.append(1)
    with pytest.raises(counting.Killed):
        evaluated(changed)
    counting.STOP_AFTER.clear()
    same = [path_of(context, sae_id).read_bytes() == before[sae_id] for sae_id in IDS]
    assert same == [False, True, True]
    assert evaluated(context) == ["s0"]


def test_a_failed_rerun_leaves_and_names_the_old_results(context: RunContext) -> None:
    evaluated(context)
    before = {sae_id: path_of(context, sae_id).read_bytes() for sae_id in IDS}
    weights = context.out.parent / "resumed" / "s1" / "sae_weights.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(b"x")
    outcome = run_evals(["counting"], context)
    assert [failure.sae_id for failure in outcome.failures] == IDS
    # written before the error
    assert path_of(context, "s0").read_bytes() != before["s0"]
    old = [path_of(context, sae_id) for sae_id in IDS[1:]]
    assert [path.read_bytes() for path in old] == [before["s1"], before["s2"]]
    assert list(outcome.outdated) == list(outdated_results(context.out)) == old
    assert "is damaged" in outcome.outdated[old[0]].cause
    assert outcome.frame["sae_id"].tolist() == ["s0"]
    (note, _) = outdated_notes(context.out)
    assert note.startswith("counting/resumed_s1_eval_results.json is of an earlier run")
    # of this configuration after all: the weights are again those of the old results
    weights.write_bytes(sound)
    assert evaluated(context) == []
    assert outdated_results(context.out) == {}


def test_a_successor_ends_the_note(context: RunContext) -> None:
    evaluated(context)
    weights = context.out.parent / "resumed" / "s0" / "sae_weights.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(b"x")
    assert len(run_evals(["counting"], context).outdated) == 3
    weights.write_bytes(sound)
    assert evaluated(context, resume=False) == IDS
    assert outdated_results(context.out) == {}
    assert json.loads((context.out / "outdated.json").read_text()) == {}
    (context.out / "outdated.json").write_text("[1]")
    with pytest.raises(InputError, match="outdated.json' is damaged"):
        evaluated(context)


def test_a_damaged_result_whose_sae_fails_is_in_no_table(context: RunContext) -> None:
    evaluated(context)
    path_of(context, "s0").write_text("{")
    weights = context.out.parent / "resumed" / "s0" / "sae_weights.safetensors"
    weights.write_bytes(b"x")
    outcome = run_evals(["counting"], context, resume=True)
    assert [failure.sae_id for failure in outcome.failures] == ["s0"]
    assert sorted(outcome.frame["sae_id"]) == ["s1", "s2"]
    assert "s0" not in outcome.summary.read_text()
    assert path_of(context, "s0").read_text() == "{"


def test_the_outcome_says_how_many_results_are_kept(context: RunContext) -> None:
    assert run_evals(["counting"], context, resume=True).kept == 0
    path_of(context, "s0").unlink()
    assert run_evals(["counting"], context, resume=True).kept == 2
    assert run_evals(["counting"], context).kept == 0


def test_an_evaluation_over_groups_is_done_for_all_or_for_none(
    context: RunContext, register: Callable[[str], None]
) -> None:
    register(OVER_GROUPS)
    assert evaluated(context) == IDS
    assert evaluated(context) == []
    path_of(context, "s1").unlink()
    assert evaluated(context) == IDS
    # what it says of an SAE depends on the company
    assert evaluated(replace(context, subjects=context.subjects[:2])) == ["s0", "s1"]


def test_a_broken_file_of_another_run_stops_before_the_evaluation(
    context: RunContext,
) -> None:
    evaluated(context)
    other = context.out / "core" / "other_x_eval_results.json"
    other.parent.mkdir()
    other.write_text("{")
    with pytest.raises(InputError, match="other_x_eval_results"):
        evaluated(context)
    assert counting.EVALUATED == []


def test_progress_says_what_is_kept_and_why_the_rest_is_not(
    context: RunContext,
) -> None:
    lines: list[str] = []
    run_evals(["counting"], context, resume=True, progress=lines.append)
    path_of(context, "s0").unlink()
    cut_short(path_of(context, "s1"))
    for _ in range(2):
        run_evals(["counting"], context, resume=True, progress=lines.append)
    run_evals(["counting"], context, progress=lines.append)
    assert lines == [
        "1 of 3 results are current and kept.",
        "counting: 1 of 3 results are current; 2 to do (1 missing, 1 damaged).",
        "3 of 3 results are current and kept.",
    ]


def test_settings_that_differ_are_named_with_both_values(context: RunContext) -> None:
    lines: list[str] = []
    run_evals(["counting"], context)
    changed = replace(context, heldout_tokens=32, options={"counting": {"factor": 2.0}})
    run_evals(["counting"], changed, resume=True, progress=lines.append)
    assert lines[1] == (
        "counting: 0 of 3 results are current; 3 to do (3 of another configuration: "
        f"heldout_tokens {context.heldout_tokens}, now 32; options.factor 1.0, now 2.0)."
    )
    # what 0.1 wrote has no settings
    record = json.loads(path_of(context, "s0").read_text())
    del record["eval_result_unstructured"]["saereg"]["settings"]
    path_of(context, "s0").write_text(json.dumps(record))
    run_evals(["counting"], context, resume=True, progress=lines.append)
    assert "(1 of another configuration, 2 of another configuration: held" in lines[3]


def test_long_settings_are_said_to_differ_and_many_are_counted() -> None:
    before = {"sae": "#1", "options.prompt": "#2", "device": '"cpu"', "seed": "0"}
    now = {"sae": "#3", "options.prompt": "#4", "seed": "1", "threads": "2"}
    assert differing_settings(before, now) == (
        'the SAE differs; options.prompt differs; device "cpu", now none; 2 more'
    )


@pytest.mark.parametrize(
    "value", ["https://me:secret@host/v1", "/home/me/text", r"C:\\texts", "x" * 60]
)
def test_addresses_paths_and_long_settings_are_stored_as_hashes(
    value: str, context: RunContext
) -> None:
    changed = replace(context, data=value)
    keys = result_keys(load_evaluation("counting"), changed, subject_hashes(changed))
    key = keys[path_of(context, "s0")]
    assert key.settings["data"].startswith("#")
    assert key.settings["device"] == json.dumps(context.device)
    assert value not in str(key)


def test_an_sae_that_cannot_be_loaded_has_no_key(context: RunContext) -> None:
    weights = context.out.parent / "resumed" / "s1" / "sae_weights.safetensors"
    weights.write_bytes(b"x")
    hashes = subject_hashes(context)
    assert [hashes[subject] is None for subject in context.subjects] == [
        False,
        True,
        False,
    ]
    keys = result_keys(load_evaluation("counting"), context, hashes)
    assert path_of(context, "s1") not in keys
    assert len({key.digest for key in keys.values()}) == 2


def test_keys_end_with_their_block(context: RunContext) -> None:
    with keyed({path_of(context, "s0"): ResultKey("abc", {"seed": "3"})}):
        Named("counting").run(replace(context, subjects=context.subjects[:1]))
    extra = read_result(path_of(context, "s0"))["eval_result_unstructured"]
    assert extra["saereg"]["key"] == "abc"
    assert extra["saereg"]["settings"] == {"seed": "3"}
    Named("counting").run(replace(context, subjects=context.subjects[:1]))
    extra = read_result(path_of(context, "s0"))["eval_result_unstructured"]
    assert "key" not in extra["saereg"]


def test_a_part_shares_model_and_heldout_figures(context: RunContext) -> None:
    context.measured["heldout"] = HeldOutTable({}, {"s0": "given"})
    part = context.part(context.subjects[1:])
    assert [subject.sae_id for subject in part.subjects] == IDS[1:]
    assert heldout_of(part) is heldout_of(context)
    assert heldout_of(part.part(part.subjects[:1])) is heldout_of(context)
    assert part.models is context.models
    assert part.options is context.options
    assert context.part(context.subjects) is context


def test_a_model_that_was_given_is_never_replaced(
    model: HookedTransformer, model_name: str
) -> None:
    cache = ModelCache()
    cache.hold(model, model_name, dtype="float32", device="cpu")
    kwargs = '{"center_writing_weights": false}'
    same = cache.get(model_name, dtype="float32", device="cpu", model_kwargs=kwargs)
    assert same is model
    given = f"given is '{model_name}' in float32 on cpu; expected '{model_name}' in bfloat16"
    with pytest.raises(InputError, match=given):
        cache.get(model_name, dtype="bfloat16", device="cpu")
    with pytest.raises(InputError, match="expected 'gpt2' in float32"):
        cache.get("gpt2", dtype="float32", device="cpu")
    assert cache.get(model_name, dtype="float32", device="cpu") is model
