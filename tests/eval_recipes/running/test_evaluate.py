"""A release evaluated in one call, with both of TransformerLens' model classes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformer_lens import HookedTransformer

import eval_recipes
import saereg_plugin as sr
from eval_recipes.results.differences import GroupDifference, differences_frame
from eval_recipes.results.subject import Failure
from eval_recipes.running.run import Outcome
from eval_recipes.steering.generate.language_model import backend_for
from saereg_plugin.errors import InputError
from saereg_plugin.html import html_block
from saereg_plugin.releases.release import Release
from saereg_plugin.sources import models

pytestmark = pytest.mark.slow

EVALS = ["core", "cross_seed", "sparse_probing"]
SETTINGS: Mapping[str, Any] = {
    "heldout_tokens": 1024,
    "data": "embedded",
    "options": {
        "core": {"n_eval_sparsity_variance_batches": 1, "eval_batch_size_prompts": 2},
        "cross_seed": {"n_resamples": 50},
        "sparse_probing": {
            "dataset_names": ["embedded/emotion"],
            "probe_train_set_size": 40,
            "probe_test_set_size": 20,
            "context_length": 24,
            "k_values": [1, 2],
        },
    },
}


def evaluate(release: Any, folder: Path, **changes: Any) -> Outcome:
    return eval_recipes.evaluate(
        release,
        changes.pop("evals", EVALS),
        folder / "out",
        artifacts=folder / "artifacts",
        **{**SETTINGS, **changes},
    )


@pytest.fixture(scope="module")
def hooked(
    trained_release: Release, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    return evaluate(trained_release, tmp_path_factory.mktemp("hooked"))


@pytest.fixture(scope="module")
def bridged(
    trained_release: Release, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    folder = tmp_path_factory.mktemp("bridge")
    return evaluate(trained_release, folder, model_class=models.BRIDGE)


def largest_gaps(hooked: Outcome, bridged: Outcome) -> dict[str, float]:
    """The largest difference by evaluation, relative to values above 1, else absolute."""
    keys = ["eval", "metric", "sae_id"]
    one, other = (o.frame.set_index(keys)["value"] for o in (hooked, bridged))
    assert list(one.index) == list(other.index)
    assert len(one) > 300
    assert list(one.isna()) == list(other.isna())
    gaps = (one - other).abs() / one.abs().clip(lower=1.0)
    return {name: float(gaps[name].max()) for name in EVALS}


def test_both_model_classes_measure_the_same(hooked: Outcome, bridged: Outcome) -> None:
    assert hooked.failures == bridged.failures == []
    gaps = largest_gaps(hooked, bridged)
    # measured on CPU in float32: 5.0e-7, 3.6e-8 and 0
    assert gaps["core"] < 1e-5
    assert gaps["cross_seed"] < 1e-6
    assert gaps["sparse_probing"] < 1e-2
    # they were not one model
    assert gaps["core"] > 0


def test_results_of_another_class_are_redone_and_a_model_in_memory_is_used(
    trained_release: Release, hooked: Outcome
) -> None:
    said: list[str] = []
    folder = hooked.summary.parents[1]
    core: dict[str, Any] = {"evals": "core", "progress": said.append}
    assert evaluate(trained_release, folder, **core).kept == 2
    bridge = models.load(trained_release.model, model_class=models.BRIDGE)
    assert isinstance(bridge, models.TransformerBridge)
    held = evaluate(trained_release, folder, model=bridge, **core)
    assert held.kept == 0
    # one result is kept, the other of another configuration
    assert any("are current and kept" in line for line in said)
    assert "another configuration" in said[-1]


def test_outcome_shows_itself_in_a_notebook(hooked: Outcome) -> None:
    shown = hooked._repr_html_()
    assert shown.count("<table") == 1
    assert "expl. var." in shown
    assert "max cos" in shown
    hooked.failures.append(Failure("core", "<b>a</b>", "<script>"))
    try:
        broken = hooked._repr_html_()
    finally:
        hooked.failures.pop()
    assert broken.count("<table") == 2
    assert "<script>" not in broken
    assert "<b>a" not in broken


def test_differences_show_themselves() -> None:
    items = [
        GroupDifference("shared/shared", "<a>", "b", 0.5, 0.25, 0.75, 5, "seed pairs"),
        GroupDifference("shared/shared", "c", "b", 0.5, None, None, None),
        GroupDifference("shared/unknown", "c", "b", 0.5, None, None, None),
    ]
    frame = differences_frame(items)
    assert list(frame["groups"]) == ["<a> - b", "c - b"]
    assert list(frame["differs"]) == ["yes", ""]
    assert "<a>" not in html_block("", frame)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heldout_token": 5}, "no setting 'heldout_token'. Did you mean 'heldout_to"),
        ({"subjects": []}, "evaluate has no setting 'subjects'"),
        ({"evals": "cores"}, "Unknown evaluation 'cores'. Did you mean 'core'?"),
        ({"model_class": "Bridge"}, "Unknown model class 'Bridge'. Known: 'HookedTran"),
        ({"sae_ids": ["nothing"]}, "No SAE 'nothing' in release"),
    ],
)
def test_wrong_call_is_named_before_anything_runs(
    changes: dict[str, Any], message: str, trained_release: Release, tmp_path: Path
) -> None:
    with pytest.raises(sr.InputError) as caught:
        evaluate(trained_release, tmp_path, **changes)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_bridge_refuses_arguments_that_change_weights(model_name: str) -> None:
    with pytest.raises(sr.InputError, match="takes no fold_ln=True; expected only"):
        models.load(model_name, model_class=models.BRIDGE, fold_ln=True)


def test_steering_says_that_it_needs_the_other_class(model_name: str) -> None:
    bridge = models.load(model_name, model_class=models.BRIDGE, fold_ln=False)
    with pytest.raises(sr.InputError, match="Cannot steer a TransformerBridge"):
        backend_for(bridge)


def test_names_of_the_package_are_imported_when_they_are_used() -> None:
    code = """
import sys, eval_recipes
assert sorted(eval_recipes.__all__) == eval_recipes.__all__
assert set(eval_recipes.__all__) <= set(dir(eval_recipes))
heavy = {"torch", "pandas", "sae_lens", "saereg_plugin", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
try:
    eval_recipes.nothing
except AttributeError as error:
    assert "has no attribute 'nothing'" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", eval_recipes.__all__)
def test_every_name_of_the_package_exists(name: str) -> None:
    assert getattr(eval_recipes, name).__name__ == name


def test_a_model_of_another_data_type_than_asked_for_is_refused(
    trained_release: Release, model: HookedTransformer, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="dtype='bfloat16' was asked for"):
        eval_recipes.evaluate(
            trained_release, "core", tmp_path, model=model, dtype="bfloat16"
        )
    assert list(tmp_path.iterdir()) == []
