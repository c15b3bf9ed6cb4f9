"""SAEs of every architecture, and SAELens' own trainer on given activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from sae_lens import (
    LanguageModelSAERunnerConfig,
    LoggingConfig,
    SAETrainer,
    TrainingSAE,
    TrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput

from saereg_plugin import RegularizedMixin
from saereg_plugin.registry import training_classes

D_IN = 576
D_SAE = 256
BATCH = 64

ARCHITECTURES = (
    "standard",
    "topk",
    "batchtopk",
    "matryoshka_batchtopk",
    "jumprelu",
    "gated",
)
TOPK_ARCHITECTURES = ("topk", "batchtopk", "matryoshka_batchtopk")
"""Those with ``rescale_acts_by_decoder_norm`` and a sparse step."""

_FIELDS: dict[str, dict[str, Any]] = {
    "standard": {"l1_coefficient": 0.5},
    "topk": {"k": 8},
    "batchtopk": {"k": 8},
    "matryoshka_batchtopk": {"k": 8, "matryoshka_widths": [64, 128, D_SAE]},
    "jumprelu": {"l0_coefficient": 0.05, "pre_act_loss_coefficient": 1e-4},
    "gated": {"l1_coefficient": 0.5},
}


def make_cfg(architecture: str = "topk", **fields: Any) -> Any:
    """
    Configuration of the regularised architecture of that base name.

    Its steps are dense, bit for bit SAELens' own, unless ``sparse_step`` says otherwise.
    """
    if architecture in TOPK_ARCHITECTURES:
        fields = {"sparse_step": "never", **fields}
    return _cfg(f"regularized_{architecture}", architecture, fields)


def make_stock_cfg(architecture: str = "topk", **fields: Any) -> Any:
    """Configuration of SAELens' own architecture."""
    return _cfg(architecture, architecture, fields)


def make_sae(architecture: str = "topk", *, seed: int = 0, **fields: Any) -> Any:
    """A regularised training SAE drawn after ``torch.manual_seed(seed)``."""
    return build(make_cfg(architecture, **fields), seed)


def make_stock_sae(architecture: str = "topk", *, seed: int = 0, **fields: Any) -> Any:
    """SAELens' own training SAE drawn after ``torch.manual_seed(seed)``."""
    return build(make_stock_cfg(architecture, **fields), seed)


def build(cfg: TrainingSAEConfig, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return training_classes(cfg.architecture())[0](cfg)


def _cfg(name: str, base: str, fields: dict[str, Any]) -> Any:
    values: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE, **_FIELDS[base], **fields}
    return training_classes(name)[1](**values)


def batches(
    activations: torch.Tensor, batch_size: int = BATCH, start: int = 0
) -> Iterator[torch.Tensor]:
    """Endless batches in the order of the rows, from batch ``start`` on."""
    while True:
        for batch in activations.split(batch_size)[start:]:
            if len(batch) == batch_size:
                yield batch
        start = 0


def make_trainer(
    sae: TrainingSAE[Any],
    data: Iterator[torch.Tensor],
    *,
    steps: int = 10,
    batch_size: int = BATCH,
    **fields: Any,
) -> SAETrainer[Any, Any]:
    """SAELens' trainer, with a short dead-latent window so that AuxK takes part."""
    values: dict[str, Any] = {
        "total_training_samples": steps * batch_size,
        "train_batch_size_samples": batch_size,
        "lr": 1e-3,
        "lr_end": 1e-4,
        "dead_feature_window": 5,
        "n_batches_for_norm_estimate": 2,
        "logger": LoggingConfig(log_to_wandb=False),
    }
    return SAETrainer(SAETrainerConfig(**(values | fields)), sae, data)


def run_steps(trainer: SAETrainer[Any, Any], n_steps: int) -> list[TrainStepOutput]:
    """What ``SAETrainer.fit`` does in ``n_steps`` steps, without its start and its end."""
    outputs: list[TrainStepOutput] = []
    for batch in islice(trainer.data_provider, n_steps):
        outputs.append(trainer.step(batch))
        trainer.n_training_steps += 1
    return outputs


def estimate_scale(trainer: SAETrainer[Any, Any]) -> float:
    """Estimate the activation scale as ``fit`` does; return the factor."""
    trainer.activation_scaler.estimate_scaling_factor(
        d_in=D_IN,
        data_provider=trainer.data_provider,
        n_batches_for_norm_estimate=trainer.cfg.n_batches_for_norm_estimate,
    )
    factor = trainer.activation_scaler.scaling_factor
    assert factor is not None
    return factor


def forward(
    sae: TrainingSAE[Any],
    sae_in: torch.Tensor,
    dead: torch.Tensor | None = None,
) -> TrainStepOutput:
    """One training forward pass without a trainer."""
    coefficients = {
        name: getattr(value, "value", value)
        for name, value in sae.get_coefficients().items()
    }
    return sae.training_forward_pass(
        TrainStepInput(
            sae_in=sae_in,
            coefficients=coefficients,
            dead_neuron_mask=dead,
            n_training_steps=0,
            is_logging_step=False,
        )
    )


def row_norms(sae: Any) -> torch.Tensor:
    return sae.W_dec.detach().double().norm(dim=-1)


def assert_same_state(actual: Any, expected: Any, *, keys: Sequence[str] = ()) -> None:
    """Bit for bit, type for type; ``keys`` defaults to every key of ``expected``."""
    ours, theirs = actual.state_dict(), expected.state_dict()
    for key in keys or theirs:
        assert ours[key].dtype == theirs[key].dtype, key
        assert torch.equal(ours[key], theirs[key]), key


def assert_same_optimizer(
    actual: torch.optim.Optimizer, expected: torch.optim.Optimizer
) -> None:
    ours, theirs = actual.state_dict(), expected.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys() != set()
    for index, values in theirs["state"].items():
        for key, value in values.items():
            assert torch.equal(ours["state"][index][key], value), (index, key)


def relative_row_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest distance between two rows, relative to the expected row's norm."""
    distance = (actual.double() - expected.double()).norm(dim=-1)
    return float((distance / expected.double().norm(dim=-1)).max())


def component(sae: Any, label: str) -> Any:
    assert isinstance(sae, RegularizedMixin)
    return sae.components[label]


def runner_cfg(sae_cfg: Any, **fields: Any) -> LanguageModelSAERunnerConfig[Any]:
    """A SAELens run of ten small steps on the embedded model and corpus."""
    from saereg_plugin.sources import corpora

    values: dict[str, Any] = {
        "model_name": "smollm2-135m-instruct",
        "hook_name": "blocks.1.hook_resid_post",
        "dataset_path": corpora.ensure("embedded", "train"),
        "is_dataset_tokenized": False,
        "streaming": True,
        "context_size": 32,
        "store_batch_size_prompts": 4,
        "n_batches_in_buffer": 4,
        "train_batch_size_tokens": BATCH,
        "training_tokens": 10 * BATCH,
        "n_batches_for_norm_estimate": 2,
        "lr": 1e-3,
        "output_path": None,
        "checkpoint_path": None,
        "verbose": False,
        "logger": LoggingConfig(log_to_wandb=False),
    }
    return LanguageModelSAERunnerConfig(sae=sae_cfg, **(values | fields))
