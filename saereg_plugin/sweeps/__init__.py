"""Sweeps: a grid of SAEs trained on one stream of activations."""

from saereg_plugin.releases.records import last_records, load_records
from saereg_plugin.sweeps.cache import cache_sweep, sweep_of_source
from saereg_plugin.sweeps.config import SweepConfig, read_sweep, sweep_from
from saereg_plugin.sweeps.flags import is_regularized, sweep_from_flags
from saereg_plugin.sweeps.matched import matched_sweep
from saereg_plugin.sweeps.members import Member, expand
from saereg_plugin.sweeps.plan import Plan, plan_sweep
from saereg_plugin.sweeps.records import Stopped
from saereg_plugin.sweeps.run import SweepResult, run_sweep, train
from saereg_plugin.sweeps.saving import release_name
from saereg_plugin.sweeps.trainer import SweepTrainer, open_trainer
from saereg_plugin.sweeps.wandb_runs import wandb_logger

__all__ = [
    "Member",
    "Plan",
    "Stopped",
    "SweepConfig",
    "SweepResult",
    "SweepTrainer",
    "cache_sweep",
    "expand",
    "is_regularized",
    "last_records",
    "load_records",
    "matched_sweep",
    "open_trainer",
    "plan_sweep",
    "read_sweep",
    "release_name",
    "run_sweep",
    "sweep_from",
    "sweep_from_flags",
    "sweep_of_source",
    "train",
    "wandb_logger",
]
