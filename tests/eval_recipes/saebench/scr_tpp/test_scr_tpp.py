"""The recipes ``scr`` and ``tpp`` around the real upstream eval: values, caches, isolation."""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sae_bench.evals.scr_and_tpp import dataset_creation
from sae_bench.evals.scr_and_tpp import main as upstream_main
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.evals.scr_and_tpp.eval_output import ScrEvalOutput, TppEvalOutput
from sae_bench.evals.sparse_probing.probe_training import Probe
from sae_bench.sae_bench_utils import dataset_info, general_utils
from sae_lens import SAE
from transformer_lens import HookedTransformer

from eval_recipes.labelled.crossed import crossed_train_test_data
from eval_recipes.labelled.probing import probing_sets
from eval_recipes.results.files import load_results, read_result, result_path
from eval_recipes.results.schemas import schema_text
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.scr_tpp import main as scr_tpp
from eval_recipes.saebench.scr_tpp.ablation_step import (
    Sampled,
    averaged,
    flat,
    share,
    stratified,
    text_means,
)
from eval_recipes.saebench.scr_tpp.cache import (
    ACTIVATIONS,
    PROBES,
    Probes,
    upstream_names,
)
from eval_recipes.saebench.upstream import folded_copy, preserved_state
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.running.hostile import Hostile
from tests.eval_recipes.tiny_saes import save_release, tiny_sae
from tests.oracles import scr_and_tpp_oracle as oracle

pytestmark = pytest.mark.slow

N_VALUES = [2, 100]
SETS = {"scr": "embedded/cm_correct_isshort", "tpp": "embedded/ag_news"}
RECIPES = {"scr": Named("scr"), "tpp": Named("tpp")}
OUTPUTS = {"scr": scr_tpp.MaskedScrOutput, "tpp": scr_tpp.MaskedTppOutput}
UPSTREAM_OUTPUTS = {"scr": ScrEvalOutput, "tpp": TppEvalOutput}
PAIR = ("wrong", "acceptable")


def options(name: str, **changed: Any) -> dict[str, Any]:
    return {
        "dataset_names": [SETS[name]],
        "n_values": N_VALUES,
        "train_set_size": 40,
        "test_set_size": 24,
        "context_length": 32,
        "n_resamples": 100,
        **changed,
    }


def run(name: str, context: RunContext) -> dict[str, dict[str, Any]]:
    """Run one recipe and return its results by SAE; none may fail."""
    assert RECIPES[name].run(context) == []
    return {
        subject.sae_id: read_result(
            result_path(context.out, name, subject.release, subject.sae_id)
        )
        for subject in context.subjects
    }


@pytest.fixture(scope="module")
def saes(model_name: str, activations: torch.Tensor) -> dict[str, Any]:
    """Two that work, one of NaN, and one on a hook that has a vector a head."""
    mean = activations.mean(0)
    broken = tiny_sae(model_name, HOOK_NAME, mean, 1)
    broken.W_enc.data[0, 5] = torch.nan
    return {
        "a": tiny_sae(model_name, HOOK_NAME, mean, 0),
        "b": tiny_sae(model_name, HOOK_NAME, mean, 2),
        "broken": broken,
        "heads": tiny_sae(model_name, "blocks.2.attn.hook_z", mean, 3),
    }


@pytest.fixture(scope="module")
def subjects(
    tmp_path_factory: pytest.TempPathFactory, saes: dict[str, Any]
) -> dict[str, Subject]:
    release = save_release(tmp_path_factory.mktemp("tiny-scr"), saes)
    return {subject.sae_id: subject for subject in release}


@pytest.fixture(scope="module")
def context(
    tmp_path_factory: pytest.TempPathFactory,
    subjects: dict[str, Subject],
    model_name: str,
    model: HookedTransformer,
) -> RunContext:
    folder = tmp_path_factory.mktemp("scr")
    context = RunContext(
        [subjects["a"], subjects["b"]],
        folder / "out",
        data="embedded",
        artifacts=folder / "artifacts",
        seed=3,
        options={name: options(name) for name in RECIPES},
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    return context


@pytest.fixture(scope="module")
def records(context: RunContext) -> dict[str, dict[str, dict[str, Any]]]:
    """Results of the first, cold run: by recipe, then by SAE."""
    return {name: run(name, context) for name in RECIPES}


def metrics(record: dict[str, Any], category: str) -> dict[str, float]:
    values = record["eval_result_metrics"][category]
    return {name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize("name", RECIPES)
def test_result_is_valid_and_marked(
    name: str, records: dict[str, Any], context: RunContext
):
    record = records[name]["a"]
    TypeAdapter(UPSTREAM_OUTPUTS[name]).validate_python(record)
    TypeAdapter(OUTPUTS[name]).validate_python(record)
    jsonschema.validate(record, json.loads(schema_text(OUTPUTS[name])))
    assert record["eval_type_id"] == name
    assert record["sae_lens_id"] == "a"
    assert record["eval_config"]["dataset_names"] == [SETS[name]]
    assert record["eval_result_unstructured"]["saereg"]["data"] == "embedded"
    headline = {
        "scr": "scr_metric_threshold_100",
        "tpp": "tpp_threshold_100_total_metric",
    }
    frame = load_results(context.out).query(f"eval == {name!r} and sae_id == 'a'")
    row = frame.set_index("metric").loc[f"masked/{headline[name]}"]
    assert row.low <= row.value <= row.high
    # cells of 24 // 4 texts, two a key and two keys a direction; 24 // 2 texts a class
    assert row.n == {"scr": 24, "tpp": 36}[name]


@pytest.mark.parametrize("name", RECIPES)
def test_warm_alone_and_upstreams_own_loop_give_the_same_figures(
    name: str,
    records: dict[str, Any],
    context: RunContext,
    subjects: dict[str, Subject],
    tmp_path: Path,
):
    expected = {key: r["eval_result_metrics"] for key, r in records[name].items()}
    assert expected["a"] != expected["b"]
    changed = [subjects["b"], subjects["a"]]
    warm = dataclasses.replace(context, out=tmp_path / "warm", subjects=changed)
    alone = dataclasses.replace(
        context,
        out=tmp_path / "alone",
        artifacts=tmp_path / "artifacts",
        subjects=[subjects["b"]],
    )
    slow = dataclasses.replace(
        context,
        out=tmp_path / "slow",
        subjects=[subjects["a"]],
        options={name: options(name, fast_ablation=False)},
    )
    for other in (warm, alone, slow):
        for key, record in run(name, other).items():
            assert record["eval_result_metrics"] == expected[key], (other.out, key)
            assert (
                record["eval_result_details"]
                == records[name][key]["eval_result_details"]
            )


def upstream_directly(
    name: str, sae: SAE[Any], model: HookedTransformer, folder: Path, model_name: str
) -> dict[str, Any]:
    """What upstream gives by itself for the same settings, from what is in ``folder``."""
    config = ScrAndTppEvalConfig(
        random_seed=3,
        dataset_names=[SETS[name]],
        perform_scr=name == "scr",
        train_set_size=40,
        test_set_size=24,
        context_length=32,
        llm_batch_size=16,
        llm_dtype="float32",
        model_name=model_name,
        n_values=N_VALUES,
    )
    config.column1_vals_lookup = {SETS["scr"]: [PAIR]}
    sae = folded_copy(sae)
    general_utils._standardize_sae_cfg(sae.cfg)
    with preserved_state(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_creation, "get_train_test_data", crossed_train_test_data)
        column2 = {SETS["scr"]: ("long", "short"), SETS["tpp"]: None}
        patch.setattr(upstream_main, "COLUMN2_VALS_LOOKUP", column2)
        classes = dict(probing_sets())
        patch.setattr(dataset_info, "chosen_classes_per_dataset", classes)
        for _ in range(2):
            values, _ = upstream_main.run_eval_single_sae(
                config, sae, model, "cpu", str(folder)
            )
    return {key: v for key, v in values.items() if not isinstance(v, dict)}


@pytest.mark.parametrize("name", RECIPES)
def test_upstreams_values_are_untouched(
    name: str,
    records: dict[str, Any],
    saes: dict[str, Any],
    model: HookedTransformer,
    model_name: str,
    tmp_path: Path,
    context: RunContext,
):
    # the same inputs: activations and probes of the first run, the probes as a pickle
    activations, probes = stored(context, name)
    called = upstream_names(SETS[name], PAIR if name == "scr" else None)
    shutil.copy(activations, tmp_path / called[ACTIVATIONS])
    with probes.open("rb") as file:
        (tmp_path / called[PROBES]).write_bytes(pickle.dumps(Probes.load(file)))
    theirs = upstream_directly(name, saes["a"], model, tmp_path, model_name)
    ours = metrics(records[name]["a"], f"{name}_metrics")
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert any(abs(value) > 0.01 for value in theirs.values())


def stored(context: RunContext, name: str) -> tuple[Path, Path]:
    """Where activations and probes of the first run are."""
    (activations,) = context.artifacts.glob(f"{name}/*/{ACTIVATIONS}")
    (probes,) = context.artifacts.glob(f"{name}/*/{PROBES}")
    return activations, probes


def kept(context: RunContext, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Activations and probes of the first run."""
    activations, probes = stored(context, name)
    with probes.open("rb") as file:
        return torch.load(activations), Probes.load(file)["llm_probes"]


@pytest.mark.parametrize("name", RECIPES)
def test_masked_figures_and_leak_equal_the_slow_oracle(
    name: str, records: dict[str, Any], saes: dict[str, Any], context: RunContext
):
    acts, probes = kept(context, name)
    sae = folded_copy(saes["a"])
    classes = list(dataset_info.PAIRED_CLASS_KEYS)
    if name == "tpp":
        classes = probing_sets()[SETS["tpp"]]
    with preserved_state(), torch.no_grad():
        # The negatives are drawn: these are the draws upstream makes after seeding.
        torch.manual_seed(3)
        effects = upstream_main.get_all_node_effects_for_one_sae(
            sae, probes, classes, name == "scr", acts["train"], 125
        )
        latents = {
            key: upstream_main.select_top_n_features(effects[key], 100, key)
            .nonzero()[:, 0]
            .tolist()
            for key in classes
        }
        slow = {"scr": oracle.scr, "tpp": oracle.tpp}[name]
        masked, leaky = (
            slow(acts["test"], latents, probes, sae, padded=padded)
            for padded in (False, True)
        )
    found = metrics(records[name]["a"], "masked")
    if name == "scr":
        expected = {f"scr_{key}_threshold_100": value for key, value in masked.items()}
        leak = leaky["metric"] - masked["metric"]
        expected["scr_metric_threshold_100_padding_leak"] = leak
        # SCR draws nothing, so what upstream reports is the leaky figure. Its accuracies are
        # float32, and their rounding is divided by a gap of at least one of 24 texts.
        theirs = metrics(records[name]["a"], "scr_metrics")
        rounding = 4 * 2**-24 * 24
        for key, value in leaky.items():
            found_there = theirs.get(f"scr_{key}_threshold_100", value)
            assert found_there == pytest.approx(value, abs=rounding)
        assert "scr_dir1_threshold_100" in theirs
    else:
        expected = {
            "tpp_threshold_100_total_metric": masked["total"],
            "tpp_threshold_100_intended_diff_only": masked["intended"],
            "tpp_threshold_100_unintended_diff_only": masked["unintended"],
            "tpp_threshold_100_padding_leak": leaky["total"] - masked["total"],
        }
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-9)
    leaks = [value for key, value in found.items() if key.endswith("_padding_share")]
    assert 0 < max(leaks) < 1


def test_another_sae_of_the_same_name_gets_its_own_result(
    records: dict[str, Any], context: RunContext, subjects: dict[str, Subject]
):
    @dataclasses.dataclass(frozen=True)
    class Impostor(Subject):
        def load(self, device: str = "cpu") -> SAE[Any]:
            return subjects["b"].load(device)

    impostor = Impostor(**dataclasses.asdict(subjects["a"]))
    other = dataclasses.replace(
        context, subjects=[impostor], out=context.out.parent / "impostor"
    )
    record = run("scr", other)["a"]
    assert record["eval_result_metrics"] == records["scr"]["b"]["eval_result_metrics"]


def test_failed_sae_is_named_and_leaves_no_trace(
    records: dict[str, Any],
    context: RunContext,
    subjects: dict[str, Subject],
    model: HookedTransformer,
    tmp_path: Path,
):
    seams = (
        (upstream_main, "COLUMN2_VALS_LOOKUP"),
        (upstream_main, "perform_feature_ablations"),
        (upstream_main, "run_eval_single_dataset"),
        (upstream_main, "ablated_precomputed_activations"),
        (upstream_main, "get_all_node_effects_for_one_sae"),
        (dataset_info, "chosen_classes_per_dataset"),
        (dataset_creation, "get_train_test_data"),
    )
    before = [getattr(*seam) for seam in seams]
    assert model.tokenizer is not None
    for name, recipe in RECIPES.items():
        other = dataclasses.replace(
            context,
            subjects=[subjects["broken"], subjects["a"]],
            out=tmp_path,
        )
        draws: list[tuple[float, float, float]] = []
        for act in (False, True):
            random.seed(7)
            np.random.seed(7)
            torch.manual_seed(7)
            model.tokenizer.padding_side = "left"
            if act:
                (failure,) = recipe.run(other)
                assert isinstance(failure, Failure)
                assert (failure.eval, failure.sae_id) == (name, "broken")
                assert f"{name} of SAE 'broken' failed" in failure.cause
            draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
            assert model.tokenizer.padding_side == "left"
            model.tokenizer.padding_side = "right"
        assert draws[0] == draws[1]
        (path,) = (tmp_path / name).glob("*.json")
        expected = records[name]["a"]["eval_result_metrics"]
        assert read_result(path)["eval_result_metrics"] == expected
    assert torch.is_grad_enabled()
    assert [getattr(*seam) for seam in seams] == before


def test_half_made_artefacts_are_made_again(
    records: dict[str, Any],
    context: RunContext,
    tmp_path: Path,
    subjects: dict[str, Subject],
):
    acts, probes = stored(context, "tpp")
    first = probes.read_bytes()
    acts.unlink()
    probes.write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    other = dataclasses.replace(context, out=tmp_path, subjects=[subjects["a"]])
    record = run("tpp", other)["a"]
    assert record["eval_result_metrics"] == records["tpp"]["a"]["eval_result_metrics"]
    assert acts.is_file()
    assert probes.read_bytes() == first
    assert not (tmp_path / "ran").exists()


def test_stored_probes_are_the_same_and_draw_nothing(tmp_path: Path):
    classes = ["b", "a"]
    probes = {name: Probe(5, torch.bfloat16) for name in classes}
    found = {"llm_probes": probes, "llm_test_accuracies": {"b": 0.1, "a": 1 / 3}}
    path = tmp_path / "probes"
    with path.open("wb") as file:
        Probes.dump(found, file)
    before = torch.get_rng_state()
    with path.open("rb") as file:
        read = Probes.load(file)
    assert torch.equal(before, torch.get_rng_state())
    assert list(read["llm_test_accuracies"].items()) == [("b", 0.1), ("a", 1 / 3)]
    assert list(read["llm_probes"]) == classes
    for name, probe in read["llm_probes"].items():
        state = probes[name].state_dict()
        assert {**probe.state_dict()}.keys() == state.keys()
        for key, value in probe.state_dict().items():
            assert value.dtype == torch.bfloat16
            assert torch.equal(value, state[key])


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    ("changed", "sae", "message"),
    [
        ({"n_value": [2]}, "a", "Did you mean 'n_values'"),
        ({"n_values": [3]}, "a", "expected 2, 5, 10"),
        ({"n_values": []}, "a", "1 or more entries"),
        ({"n_values": 100}, "a", "expected a list"),
        ({"n_values": [2, 500]}, "a", "256 latents, .* needs 500"),
        ({"train_set_size": 0}, "a", "at least 1"),
        ({"train_set_size": 100_000}, "a", "at most"),
        ({"context_length": 10_000_000}, "a", "GiB of activations"),
        ({"fast_ablation": 1}, "a", "true or false"),
        ({"dataset_names": ["embedded/nothing"]}, "a", "Unknown"),
        ({"dataset_names": "embedded/ag_news"}, "a", "a list"),
        ({}, "heads", "hook_z.*one vector"),
    ],
)
def test_what_cannot_work_is_refused(
    name: str,
    changed: dict[str, Any],
    sae: str,
    message: str,
    subjects: dict[str, Subject],
    tmp_path: Path,
):
    context = RunContext(
        [subjects[sae]],
        tmp_path,
        data="embedded",
        options={name: options(name, **changed)},
    )
    with pytest.raises(InputError, match=message):
        RECIPES[name].check(context)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", RECIPES)
def test_hub_out_of_reach_is_said_at_once(
    name: str, subjects: dict[str, Subject], tmp_path: Path
):
    context = RunContext(
        [subjects["a"]],
        tmp_path,
        options={name: {"n_values": [2], "train_set_size": 40, "test_set_size": 24}},
    )
    with pytest.raises(InputError, match="--data embedded"):
        RECIPES[name].check(context)


def test_padding_and_tokens_are_told_apart(saes: dict[str, Any]):
    sae = folded_copy(saes["a"])
    acts = torch.randn(2, 4, 576, generator=torch.Generator().manual_seed(0))
    acts[0, 3] = 0
    # A token whose coordinates add up to zero is one for all that.
    acts[1, 0] = 0
    acts[1, 0, :2] = torch.tensor([3.0, -3.0])
    means = text_means(sae, acts, torch.arange(256), batch_size=1)
    with torch.no_grad():
        f = sae.encode(acts)
    torch.testing.assert_close(
        means.clean, torch.stack([acts[0].sum(0) / 3, acts[1].mean(0)])
    )
    torch.testing.assert_close(
        means.real, torch.stack([f[0, :3].sum(0) / 3, f[1].mean(0)])
    )
    torch.testing.assert_close(means.padded[0], f[0, 3] / 3)
    assert means.padded[0].abs().sum() > 0
    assert not means.padded[1].any()


def test_removal_score():
    arrays = (
        np.array(values) for values in ([0.9, 0.6, 1.0], [0.6] * 3, [0.9, 0.6005, 0.5])
    )
    np.testing.assert_allclose(scr_tpp.removal_score(*arrays), [1, 0, 0])


def test_accuracy_weights_are_upstreams_expectation():
    weights = scr_tpp.accuracy_weights(4)
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights[2], [1 / 6, 1 / 6, 1 / 2, 1 / 6])


def test_bootstrap_resamples_within_strata():
    strata = [np.ones((5, 1)), np.arange(40.0)[:, None]]
    value, draws = stratified(strata, resamples=4000, seed=[1])
    assert value[0] == 1 + 19.5
    # the standard error of a mean of 40; the constant stratum adds nothing
    assert draws.std() == pytest.approx(np.arange(40.0).std() / 40**0.5, rel=0.05)
    assert draws.mean() == pytest.approx(20.5, abs=0.2)
    again = stratified(strata, resamples=4000, seed=[1])[1]
    np.testing.assert_array_equal(draws, again)


def test_sets_are_averaged_with_their_resamples():
    one = {"x": Sampled(1.0, np.array([0.0, 2.0]), 5)}
    two = {"x": Sampled(3.0, np.array([3.0, 3.0]), 7)}
    fields = flat(averaged([one, two]))
    assert fields["x"] == 2
    assert fields["x_n"] == 12
    assert fields["x_ci_low"] == pytest.approx(1.525)
    np.testing.assert_array_equal(
        share(np.array([0.0, 1]), np.array([0.0, 3])), [0, 0.25]
    )
