"""Training step of a TopK SAE, in this package and in others."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from sae_lens import LoggingConfig, SAETrainer, TrainingSAE
from sae_lens.config import SAETrainerConfig

from eval_recipes.speed.measurement import Shape
from saereg_plugin import WeightPenalty
from saereg_plugin.registry import training_classes

logger = logging.getLogger(__name__)

Step = Callable[[], object]
_LR = 3e-4

OURS = "saereg"
UNSCREENED = "saereg unscreened"
SCREENED = "saereg screened"
SAE_LENS = "sae_lens"

_Sae = tuple[str, dict[str, Any]]
"""Architecture and further fields."""


def _sparse(architecture: str = "regularized_topk", **fields: Any) -> _Sae:
    return architecture, {"sparse_step": "auto", **fields}


_SAES: dict[str, _Sae] = {
    OURS: _sparse(),
    UNSCREENED: _sparse(sparse_step="always"),
    SCREENED: _sparse(sparse_step="screened"),
    "saereg dense": ("regularized_topk", {"sparse_step": "never"}),
    "saereg without rescaling": _sparse(rescale_acts_by_decoder_norm=False),
    "saereg unit norm": _sparse(decoder_constraint="unit_norm"),
    "saereg L2": _sparse(regularizers=[WeightPenalty(norm="l2", coefficient=1e-5)]),
    "saereg L1": _sparse(regularizers=[WeightPenalty(norm="l1", coefficient=1e-5)]),
    "saereg batchtopk": _sparse("regularized_batchtopk"),
    "saereg unscreened batchtopk": _sparse(
        "regularized_batchtopk", sparse_step="always"
    ),
    SAE_LENS: ("topk", {}),
    "sae_lens batchtopk": ("batchtopk", {}),
}
"""This package's and SAELens' steps, by name."""


def peers() -> list[str]:
    """Return the installed packages that do the same work."""
    # read when sparsify is imported: its Triton kernels have no CPU version
    if not torch.cuda.is_available():
        os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
    return [SAE_LENS, *(peer for peer in _PEERS if _is_usable(peer))]


def _is_usable(package: str) -> bool:
    if find_spec(package) is None:
        return False
    try:
        importlib.import_module(package)
    except ImportError as error:
        logger.warning("%s is installed but left out: %s", package, error)
        return False
    return True


def build_step(
    name: str, shape: Shape, *, autocast: bool, device: str, seed: int
) -> Step:
    """
    Make an SAE with its optimiser; return a function that trains it by one batch.

    The batch is standard normal and always the same. Weights, batch and optimiser are
    float32; with ``autocast`` products are made in bfloat16.
    """
    torch.manual_seed(seed)
    batch = torch.randn(shape.batch, shape.d_in, device=device)
    if name in _SAES:
        trainer = build_trainer(name, shape, autocast=autocast, device=device)
        return lambda: trainer.step(batch)
    return _PEERS[name](shape, batch, autocast, device)


def build_trainer(
    name: str, shape: Shape, *, autocast: bool, device: str
) -> SAETrainer[Any, Any]:
    """Make one of this package's or SAELens' SAEs with its trainer."""
    architecture, fields = _SAES[name]
    sae_class, config_class = training_classes(architecture)
    sizes: dict[str, Any] = {"d_in": shape.d_in, "d_sae": shape.d_sae, "k": shape.k}
    cfg = config_class(**sizes, device=device, **fields)
    sae: TrainingSAE[Any] = sae_class(cfg)
    return SAETrainer(_trainer_config(shape, autocast, device), sae, iter(()))


def _trainer_config(shape: Shape, autocast: bool, device: str) -> SAETrainerConfig:
    return SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=shape.batch * 10_000,
        device=device,
        autocast=autocast,
        lr=_LR,
        lr_end=_LR,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=0,
        n_restart_cycles=1,
        train_batch_size_samples=shape.batch,
        dead_feature_window=1000,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
    )


def _sparsify(shape: Shape, batch: torch.Tensor, autocast: bool, device: str) -> Step:
    """Return the step of sparsify's trainer with Adam."""
    sparsify: Any = importlib.import_module("sparsify")
    sae = sparsify.SparseCoder(
        shape.d_in,
        sparsify.SparseCoderConfig(num_latents=shape.d_sae, k=shape.k),
        device=device,
    )
    optimizer = torch.optim.Adam(sae.parameters(), lr=_LR)
    since_fired = torch.zeros(shape.d_sae, dtype=torch.long, device=device)

    def step() -> None:
        sae.set_decoder_norm_to_unit_norm()
        fired = torch.zeros(shape.d_sae, dtype=torch.bool, device=device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, autocast):
            out = sae(batch, dead_mask=since_fired > 10_000_000)
        fired[out.latent_indices.flatten()] = True
        (out.fvu + out.auxk_loss / 32).backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        since_fired.add_(shape.batch)
        since_fired[fired] = 0

    return step


def _dictionary_learning(
    shape: Shape, batch: torch.Tensor, autocast: bool, device: str
) -> Step:
    """Return the step of dictionary_learning's TopK trainer."""
    top_k: Any = importlib.import_module("dictionary_learning.trainers.top_k")
    trainer = top_k.TopKTrainer(
        steps=10_000,
        activation_dim=shape.d_in,
        dict_size=shape.d_sae,
        k=shape.k,
        layer=0,
        lm_name="none",
        device=device,
        lr=_LR,
    )

    def step() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, autocast):
            # step 0 would set the decoder bias by a geometric median
            trainer.update(1, batch)

    return step


_PEERS: dict[str, Callable[[Shape, torch.Tensor, bool, str], Step]] = {
    "sparsify": _sparsify,
    "dictionary_learning": _dictionary_learning,
}
