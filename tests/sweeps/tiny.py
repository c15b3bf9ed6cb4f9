"""Sweeps of a few steps on the first block of the cut model."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedTransformer

from saereg_plugin.activations.language_model import LanguageModelSource
from saereg_plugin.activations.stream import ActivationStream
from saereg_plugin.owned_folder import open_owned
from saereg_plugin.releases.release import KIND
from saereg_plugin.sweeps import Member, SweepConfig, SweepTrainer, expand
from saereg_plugin.sweeps.members import needs_token_order
from saereg_plugin.sweeps.source import language_model_source, mixing_of
from tests.cut_model import cut_model

HOOK = "blocks.0.hook_resid_post"
D_IN = 576
BATCH = 256
STEPS = 12
CHECKPOINT_EVERY = 5
PENALTY = {"name": "weight_penalty", "coefficient": 1e-2}
SAE: dict[str, Any] = {
    "architecture": "regularized_topk",
    "d_sae": 128,
    "k": 8,
    "normalize_activations": "expected_average_only_in",
}


def fields(**changes: Any) -> dict[str, Any]:
    """The fields of a sweep of 12 steps, as a user would write them."""
    return {
        "model": str(cut_model()),
        "hook_name": HOOK,
        "sae": SAE,
        "groups": {"plain": {}, "l2": {"regularizers": [PENALTY]}},
        "seeds": [0, 1],
        "tokens": STEPS * BATCH,
        "batch_size": BATCH,
        "context_size": 64,
        "prompts_per_pass": 4,
        "llm_dtype": "float32",
        "autocast": False,
        "device": "cpu",
        "buffer_tokens": 4 * BATCH,
        "lr": 1e-3,
        "log_every": 2,
        "checkpoint_every": CHECKPOINT_EVERY,
        **changes,
    }


TEMPORAL = {"name": "temporal_difference", "coefficient": 1e-3}


def temporal_fields(**changes: Any) -> dict[str, Any]:
    """A sweep whose group "slow" looks at neighbouring tokens, which come in order."""
    values: dict[str, Any] = {
        "groups": {"plain": {}, "slow": {"regularizers": [TEMPORAL]}},
        "seeds": [0],
        "mixing_fraction": 0,
        "exclude_special_tokens": False,
    }
    return fields(**{**values, **changes})


def tiny_sweep(**changes: Any) -> SweepConfig:
    """The sweep of ``fields``."""
    return SweepConfig(**fields(**changes))


def open_source(
    model: HookedTransformer, sweep: SweepConfig, *, count_pairs: bool = False
) -> LanguageModelSource:
    """The source of a sweep on a model in memory."""
    points = {HOOK: D_IN}
    return language_model_source(sweep, model, points, count_pairs=count_pairs)


def open_stream(
    model: HookedTransformer,
    sweep: SweepConfig,
    *,
    count_pairs: bool = False,
    prefetch: int | None = None,
) -> ActivationStream:
    """The stream from its beginning."""
    source = open_source(model, sweep, count_pairs=count_pairs)
    mixing = mixing_of(sweep)
    return source.stream(mixing, count_pairs=count_pairs, prefetch=prefetch)


def batch_of(stream: ActivationStream) -> torch.Tensor:
    """The next batch of the only hook."""
    return next(stream)[HOOK]


@cache
def _members(sweep: str) -> list[Member]:
    """Expanded once: the width of the hook takes a second to find."""
    return expand(SweepConfig(**json.loads(sweep)))


def open_trainer(
    model: HookedTransformer, sweep: SweepConfig, folder: Path
) -> SweepTrainer:
    """A fresh trainer, as a new process would make it, on a model in memory."""
    members = copy.deepcopy(_members(json.dumps(sweep.to_dict())))
    count_pairs = any(map(needs_token_order, members))
    source = open_source(model, sweep, count_pairs=count_pairs)
    return SweepTrainer(sweep, members, source, open_owned(folder, KIND))


def state_of(trainer: SweepTrainer) -> dict[str, torch.Tensor]:
    """Every tensor of every SAE and of its optimiser, copied."""
    state: dict[str, torch.Tensor] = {}
    for name, sae_trainer in trainer.trainers.items():
        for key, value in sae_trainer.sae.state_dict().items():
            state[f"{name}/{key}"] = value.clone()
        for index, moments in sae_trainer.optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                state[f"{name}/{index}/{key}"] = torch.as_tensor(value).clone()
    return state


def records_of(folder: Path, *, timed: bool = False) -> dict[str, list[dict[str, Any]]]:
    """All training records by SAE; without ``timed`` only what a rerun must repeat."""

    def refuse(token: str) -> Any:
        raise ValueError(f"{token} is not JSON")

    records: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((folder / "records").glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        records[path.stem] = [json.loads(line, parse_constant=refuse) for line in lines]
        for record in records[path.stem]:
            if not timed:
                record.pop("tokens_per_second", None)
    return records


def different(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Names of the tensors that are not equal to the last bit, or on one side only."""
    return [
        key
        for key in sorted(first.keys() | second.keys())
        if key not in first
        or key not in second
        or not torch.equal(first[key], second[key])
    ]
