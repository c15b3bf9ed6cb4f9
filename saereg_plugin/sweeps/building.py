"""A sweep's training SAEs and the settings of their trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae_lens import LoggingConfig, TrainingSAE
from sae_lens.config import SAETrainerConfig

from saereg_plugin.registry import training_classes
from saereg_plugin.sweeps.config import SweepConfig
from saereg_plugin.sweeps.members import Member


def build_sae(member: Member, sweep: SweepConfig) -> TrainingSAE[Any]:
    """Make one training SAE; its metadata says what SAELens' runner would say."""
    sae = training_classes(member.cfg.architecture())[0](member.cfg).to(sweep.device)
    for key, value in {
        "dataset_path": sweep.corpus,
        "hook_name": sweep.hook_name,
        "model_name": sweep.model,
        "model_class_name": "HookedTransformer",
        "hook_head_index": None,
        "context_size": sweep.context_size,
        "seqpos_slice": (None,),
        "model_from_pretrained_kwargs": {},
        "prepend_bos": sweep.prepend_bos,
        "exclude_special_tokens": sweep.exclude_special_tokens,
        "sequence_separator_token": "bos",
        "disable_concat_sequences": sweep.disable_concat_sequences,
    }.items():
        sae.cfg.metadata[key] = value
    return sae


def trainer_config(sweep: SweepConfig, folder: Path) -> SAETrainerConfig:
    """Return SAELens' trainer configuration of a sweep."""
    return SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=str(folder),
        save_final_checkpoint=False,
        total_training_samples=sweep.steps * sweep.batch_size,
        device=sweep.device,
        autocast=sweep.autocast,
        lr=sweep.lr,
        lr_end=sweep.lr / 10,
        lr_scheduler_name="constant",
        lr_warm_up_steps=sweep.lr_warm_up_steps,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=int(sweep.lr_decay_fraction * sweep.steps),
        n_restart_cycles=1,
        train_batch_size_samples=sweep.batch_size,
        dead_feature_window=sweep.dead_feature_window,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
        n_batches_for_norm_estimate=1,
    )
