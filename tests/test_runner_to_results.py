"""SAELens' own runner, then a release of its output, then the evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest
from sae_lens import (
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
)
from transformer_lens import HookedTransformer

import saereg_plugin as sr
from eval_recipes.running.context import RunContext
from eval_recipes.running.run import run_evals, subjects_of
from saereg_plugin.files import folder_hashes
from saereg_plugin.releases.release import Entry, Release, write_release

pytestmark = pytest.mark.slow

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture(scope="session")
def model(whole_model: HookedTransformer) -> HookedTransformer:
    """The whole model, since the losses of four layers are infinite."""
    return whole_model


def train_by_runner(model: HookedTransformer, seed: int, folder: Path) -> None:
    cfg = LanguageModelSAERunnerConfig(
        sae=sr.RegularizedTopKTrainingSAEConfig(
            d_in=576,
            d_sae=128,
            k=8,
            decoder_constraint="unit_norm",
            normalize_activations="expected_average_only_in",
            regularizers=[sr.WeightPenalty(coefficient=5e-3)],
            init_seed=seed,
        ),
        model_name="smollm2-135m-instruct",
        hook_name=HOOK,
        dataset_path=sr.corpora.ensure("embedded"),
        is_dataset_tokenized=False,
        exclude_special_tokens=True,
        context_size=64,
        training_tokens=8 * 256,
        train_batch_size_tokens=256,
        store_batch_size_prompts=4,
        n_batches_in_buffer=8,
        n_batches_for_norm_estimate=2,
        lr=1e-3,
        checkpoint_path=None,
        output_path=str(folder),
        verbose=False,
        logger=LoggingConfig(log_to_wandb=False),
    )
    sr.check(cfg)
    LanguageModelSAETrainingRunner(cfg, override_model=model).run()


@pytest.fixture(scope="module")
def release(
    model_name: str, model: HookedTransformer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("by-runner")
    entries: list[Entry] = []
    for seed in (0, 1):
        path = f"saes/seed{seed}"
        train_by_runner(model, seed, folder / path)
        hashes = folder_hashes(folder / path)
        entries.append(Entry(f"l2-seed{seed}", path, "l2", seed, hashes))
    write_release(Release("by-runner", model_name, tuple(entries), folder))
    return folder


def test_output_of_the_runner_is_evaluated_as_a_release(
    release: Path, model_name: str, model: HookedTransformer, tmp_path: Path
) -> None:
    context = RunContext(
        subjects_of(str(release)), tmp_path, heldout_tokens=640, batch_size_prompts=5
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    outcome = run_evals(["core", "cross_seed"], context)
    assert outcome.failures == []
    values = outcome.frame.set_index(["eval", "sae_id", "metric"])["value"]
    for sae_id in ("l2-seed0", "l2-seed1"):
        assert values["core", sae_id, "corrected/l0"] == 8
        assert 0 <= values["cross_seed", sae_id, "shared/shared"] <= 1
    pair = [
        values["cross_seed", sae_id, "similarity/mean_max_cos"]
        for sae_id in ("l2-seed0", "l2-seed1")
    ]
    assert pair[0] == pytest.approx(pair[1])
