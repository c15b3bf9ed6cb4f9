"""SAELens' unmodified runners train regularised SAEs on the embedded model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import (
    SAE,
    LanguageModelSAETrainingRunner,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
)
from transformer_lens import HookedTransformer

import saereg_plugin as sr
from saereg_plugin.metrics.similarity import nearest_token
from saereg_plugin.sources.embeddings import find_embeddings, read_vocabulary
from tests.regularizers.throwaway import NoisyFiring
from tests.training import (
    BATCH,
    D_SAE,
    build,
    component,
    make_cfg,
    row_norms,
    runner_cfg,
)

pytestmark = pytest.mark.slow

HOOKS = [f"blocks.{layer}.hook_resid_post" for layer in (0, 1, 2)]
PENALTY = sr.WeightPenalty(coefficient=1e-3, schedule=sr.Schedule(warm_up_steps=4))
FIELDS: dict[str, Any] = {
    "decoder_constraint": "unit_norm",
    "regularizers": [PENALTY, NoisyFiring(coefficient=0.01)],
    "init_seed": 3,
}


def run(model: HookedTransformer | None, sae_cfg: Any, **fields: Any) -> Any:
    cfg = runner_cfg(sae_cfg, **fields)
    return LanguageModelSAETrainingRunner(cfg, override_model=model).run()


def run_multi(
    model: HookedTransformer,
    saes: dict[str, Any],
    *,
    override_saes: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    single = runner_cfg(make_cfg())
    shared = (
        "model_name",
        "dataset_path",
        "streaming",
        "context_size",
        "store_batch_size_prompts",
        "n_batches_in_buffer",
        "train_batch_size_tokens",
        "training_tokens",
        "n_batches_for_norm_estimate",
        "lr",
        "output_path",
        "checkpoint_path",
        "logger",
    )
    values: dict[str, Any] = {name: getattr(single, name) for name in shared}
    values |= {"hook_names": HOOKS[1], **fields}
    cfg = MultiSAETrainingRunnerConfig(saes=saes, **values)
    return MultiSAETrainingRunner(
        cfg, override_model=model, override_saes=override_saes
    ).run()


def test_run_by_name_saves_an_sae_that_saelens_loads(
    model_name: str, tmp_path: Path
) -> None:
    cfg = runner_cfg(make_cfg(**FIELDS), output_path=str(tmp_path))
    sr.check(cfg)
    trained: Any = LanguageModelSAETrainingRunner(cfg).run()
    assert type(trained) is sr.RegularizedTopKTrainingSAE
    assert trained.step_index == 10
    saved = SAE.load_from_disk(tmp_path)
    assert saved.cfg.architecture() == "topk"
    assert saved.cfg.metadata.model_name == model_name
    assert saved.cfg.metadata.hook_name == HOOKS[1]
    assert (row_norms(saved) - 1).abs().max() < 1e-5
    details = saved.cfg.metadata.training_architecture_details
    assert details["regularizers"][0] == PENALTY.to_dict()
    recorded = json.loads((tmp_path / "runner_cfg.json").read_text())
    assert recorded["sae"]["regularizers"][0] == PENALTY.to_dict()


@pytest.mark.parametrize(
    ("hook_name", "architecture"),
    zip(HOOKS, ["gated", "matryoshka_batchtopk", "gated"], strict=True),
)
def test_every_hook_and_further_architectures(
    hook_name: str, architecture: str, model: HookedTransformer
) -> None:
    start = build(make_cfg(architecture, **FIELDS))
    trained = run(model, make_cfg(architecture, **FIELDS), hook_name=hook_name)
    assert trained.cfg.metadata.hook_name == hook_name
    assert trained.step_index == 10
    assert not torch.equal(trained.W_dec, start.W_dec)
    assert (row_norms(trained) - 1).abs().max() < 1e-6


def test_checkpoint_and_resume(model: HookedTransformer, tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "n_checkpoints": 1,
        "checkpoint_path": str(tmp_path),
    }
    run(model, make_cfg(**FIELDS), **fields)
    (checkpoint,) = tmp_path.glob("*/*")
    done = int(checkpoint.name) // BATCH
    assert 5 <= done < 10
    resumed = run(
        model,
        make_cfg(**FIELDS),
        resume_from_checkpoint=str(checkpoint),
        training_tokens=14 * BATCH,
    )
    assert resumed.step_index == 14
    at_checkpoint: Any = type(resumed).load_from_disk(checkpoint)
    assert at_checkpoint.step_index == done
    whole_start = build(make_cfg(**FIELDS))
    distance = (resumed.W_enc - at_checkpoint.W_enc).norm()
    assert 0 < distance < (resumed.W_enc - whole_start.W_enc).norm()
    assert component(resumed, "test_noisy_firing").rate.max() > 0


@pytest.mark.parametrize(
    "fields", [{"autocast": True}, {"activations_mixing_fraction": 0.0}]
)
def test_autocast_and_unmixed_activations(
    fields: dict[str, Any], model: HookedTransformer
) -> None:
    trained = run(model, make_cfg(**FIELDS), **fields)
    assert trained.W_dec.dtype == torch.float32
    assert trained.step_index == 10
    assert (row_norms(trained) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_scaled_activations_are_folded_into_unit_rows(
    architecture: str, model: HookedTransformer, tmp_path: Path
) -> None:
    cfg = make_cfg(
        architecture, normalize_activations="expected_average_only_in", **FIELDS
    )
    run(model, cfg, output_path=str(tmp_path))
    saved = SAE.load_from_disk(tmp_path)
    assert saved.cfg.normalize_activations == "none"
    assert (row_norms(saved) - 1).abs().max() < 1e-5


def test_multi_runner_trains_each_as_if_alone(model: HookedTransformer) -> None:
    saes = {
        f"{label}_{seed}": make_cfg(init_seed=seed, regularizers=regularizers)
        for seed in (1, 2)
        for label, regularizers in {
            "none": [],
            "coupled": [sr.WeightPenalty(coefficient=0.1)],
            "decoupled": [sr.WeightPenalty(coefficient=5.0, mode="decoupled")],
        }.items()
    }
    trained = run_multi(model, saes, hook_names=HOOKS[1], lr=1e-9)
    for name, cfg in saes.items():
        alone = build(cfg, seed=77)
        sae = trained[name]
        assert sae.step_index == 10
        # ten steps of 1e-9: these are the initial weights
        torch.testing.assert_close(sae.W_enc, alone.W_enc, rtol=0, atol=1e-7)
        assert sae.cfg.regularizers == cfg.regularizers
    assert (trained["none_1"].W_enc - trained["none_2"].W_enc).abs().max() > 1e-3


def test_penalties_act_on_their_own_sae_only(model: HookedTransformer) -> None:
    saes = {
        "free": make_cfg(init_seed=1),
        "shrunk": make_cfg(
            init_seed=1,
            regularizers=[sr.WeightPenalty(coefficient=20.0, mode="decoupled")],
        ),
        "unit": make_cfg(init_seed=1, decoder_constraint="unit_norm"),
        "gated": make_cfg("gated", init_seed=1),
    }
    hooks = dict(zip(saes, [HOOKS[0], HOOKS[0], HOOKS[2], HOOKS[1]], strict=True))
    trained = run_multi(
        model,
        saes,
        hook_names=hooks,
        autocast=True,
    )
    assert trained["shrunk"].W_dec.norm() < 0.9 * trained["free"].W_dec.norm()
    assert (row_norms(trained["unit"]) - 1).abs().max() < 1e-6
    assert trained["gated"].cfg.metadata.hook_name == HOOKS[1]
    assert trained["gated"].b_gate.abs().max() > 0


def test_multi_runner_resumes(model: HookedTransformer, tmp_path: Path) -> None:
    saes = {"a": make_cfg(**FIELDS), "b": make_cfg(init_seed=2)}
    run_multi(model, saes, n_checkpoints=1, checkpoint_path=str(tmp_path))
    (checkpoint,) = [path for path in tmp_path.glob("*/*") if path.is_dir()]
    done = int(checkpoint.name) // BATCH
    saes = {"a": make_cfg(**FIELDS), "b": make_cfg(init_seed=2)}
    resumed = run_multi(
        model, saes, resume_from_checkpoint=str(checkpoint), training_tokens=12 * BATCH
    )
    assert 5 <= done < 10
    for sae in resumed.values():
        assert sae.step_index == 12
    assert (row_norms(resumed["a"]) - 1).abs().max() < 1e-6


def losses_of(sae: Any) -> list[float]:
    """The losses of the training passes to come, as they come."""
    losses: list[float] = []
    original = sae.training_forward_pass

    def watched(step_input: Any) -> Any:
        output = original(step_input)
        losses.append(float(output.loss.detach()))
        return output

    sae.training_forward_pass = watched
    return losses


def test_linked_saes_are_pulled_together(model: HookedTransformer) -> None:
    def trained(
        coefficient: float, *, link: bool = True
    ) -> tuple[dict[str, Any], list[float]]:
        """After ten steps on the same activations."""
        mutual = sr.MutualFeatures(coefficient=coefficient, schedule=sr.Schedule())
        cfgs = {
            name: make_cfg(init_seed=seed, regularizers=[mutual] if link else [])
            for name, seed in (("a", 1), ("b", 2))
        }
        saes = {name: build(cfg) for name, cfg in cfgs.items()}
        losses = [losses_of(sae) for sae in saes.values()]
        if link:
            saes = sr.link_saes(saes)
        torch.manual_seed(0)
        after = run_multi(model, cfgs, override_saes=saes)
        assert [len(each) for each in losses] == [10, 10]
        return after, [value for each in losses for value in each]

    linked, losses = trained(20.0)
    assert all(math.isfinite(loss) for loss in losses)
    idle, _ = trained(0.0)
    unlinked, _ = trained(0.0, link=False)
    logged: dict[str, list[float]] = {"linked": [], "idle": []}
    for name, sae in linked.items():
        assert sae.step_index == 10
        for run_name, run_saes in (("linked", linked), ("idle", idle)):
            metrics = component(run_saes[name], "mutual_features").metrics()
            assert metrics["peers"] == 1
            logged[run_name].append(float(metrics["mmcs"]))
        # without weight it is the unlinked run: what differs is the pull
        assert torch.equal(idle[name].W_dec, unlinked[name].W_dec)
        assert not torch.equal(sae.W_dec, unlinked[name].W_dec)
    assert min(logged["linked"]) > max(logged["idle"])


def test_vocabulary_anchor_reads_the_runs_own_model(model: HookedTransformer) -> None:
    def trained(coefficient: float) -> Any:
        anchor = sr.VocabularyAnchor(coefficient=coefficient)
        torch.manual_seed(0)
        return run(model, make_cfg(init_seed=3, regularizers=[anchor]))

    anchored, idle = trained(50.0), trained(0.0)
    file = find_embeddings("smollm2-135m-instruct")
    rows = read_vocabulary(file, anchored.cfg.d_in).rows
    cosines: list[float] = []
    for sae in (anchored, idle):
        assert sae.step_index == 10
        part = component(sae, "vocabulary_anchor")
        assert torch.equal(part.vocabulary.rows, rows)
        assert math.isfinite(float(part.metrics()["mean_max_cos"]))
        exact = nearest_token(sae.W_dec.detach(), rows)
        cosines.append(float(exact.cosine.mean()))
    assert cosines[0] > cosines[1] + 0.05


def test_compiled_sae_takes_sparse_steps(model: HookedTransformer) -> None:
    fields: dict[str, Any] = {
        **FIELDS,
        "regularizers": [PENALTY],
        "sparse_step": "always",
    }
    start = build(make_cfg(**fields))
    trained = run(model, make_cfg(**fields), compile_sae=True)
    assert trained.took_sparse_step
    assert trained.step_index == 10
    assert (trained.W_enc - start.W_enc).abs().max() > 1e-3
    assert (row_norms(trained) - 1).abs().max() < 1e-6


def test_compiled_sae_takes_dense_steps(model: HookedTransformer) -> None:
    start = build(make_cfg("standard", **FIELDS))
    trained = run(model, make_cfg("standard", **FIELDS), compile_sae=True)
    assert trained.step_index == 10
    assert (trained.W_enc - start.W_enc).abs().max() > 1e-3
    assert (row_norms(trained) - 1).abs().max() < 1e-6
    rate = component(trained, "test_noisy_firing").rate
    assert rate.shape == (D_SAE,) and rate.max() > 0
