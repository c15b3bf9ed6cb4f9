"""A sweep's group with mutual_features: linked seeds, resumed exactly, one of them taken out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from saereg_plugin.process import StopFlag
from saereg_plugin.sweeps import SweepConfig, SweepTrainer
from tests.sweeps.test_trainer import Finished, assert_same, finish, stop_at
from tests.sweeps.tiny import different, open_trainer, records_of, state_of, tiny_sweep

PEERS = "metrics/mutual_features_peers"
NAMES = {f"mutual-seed{seed}" for seed in (0, 1, 2)}
BROKEN = "mutual-seed1"


def sweep_of(coefficient: float = 5.0) -> SweepConfig:
    mutual = {"name": "mutual_features", "coefficient": coefficient, "schedule": {}}
    groups: dict[str, Any] = {"plain": {}, "mutual": {"regularizers": [mutual]}}
    return tiny_sweep(groups=groups, seeds=[0, 1, 2], log_every=1)


@pytest.fixture(scope="module")
def whole(
    model: HookedTransformer, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    folder = tmp_path_factory.mktemp("mutual")
    return finish(open_trainer(model, sweep_of(), folder))


def test_each_seed_is_pulled_to_the_two_others(
    model: HookedTransformer, tmp_path: Path, whole: Finished
) -> None:
    for name, lines in whole.records.items():
        assert (PEERS in lines[0]) == (name in NAMES)
    for name in NAMES:
        lines = whole.records[name]
        assert len(lines) == 12
        for line in lines:
            assert line[PEERS] == 2
            assert math.isfinite(line["loss"])
            assert line["losses/mutual_features"] > 0
    # the same without weight: what it changes is the pull
    without = finish(open_trainer(model, sweep_of(0.0), tmp_path))
    changed = set(different(without.state, whole.state))
    assert {key.split("/")[0] for key in changed} == NAMES
    assert {f"{name}/W_dec" for name in NAMES} <= changed
    last = [run.records["mutual-seed0"][-1] for run in (whole, without)]
    similarity = [line["metrics/mutual_features_mmcs"] for line in last]
    assert similarity[0] > similarity[1]


def test_resumed_equals_whole(
    model: HookedTransformer, tmp_path: Path, whole: Finished
) -> None:
    stop_at(open_trainer(model, sweep_of(), tmp_path), 7)
    resumed = open_trainer(model, sweep_of(), tmp_path)
    assert resumed.resume()
    assert_same(finish(resumed), whole)


def broken_after_three_steps(
    model: HookedTransformer, folder: Path, *, parameter: str
) -> SweepTrainer:
    trainer = open_trainer(model, sweep_of(), folder)
    assert trainer.train(StopFlag(), steps=3)
    weight: torch.Tensor = getattr(trainer.trainers[BROKEN].sae, parameter)
    weight.data[0, 0] = float("nan")
    return trainer


@pytest.mark.parametrize("parameter", ["W_dec", "W_enc"])
def test_the_others_go_on_without_one_that_broke_also_after_resuming(
    model: HookedTransformer, tmp_path: Path, whole: Finished, parameter: str
) -> None:
    reference = broken_after_three_steps(model, tmp_path / "a", parameter=parameter)
    assert reference.train(StopFlag())
    assert [(s.sae_id, s.step) for s in reference.stopped] == [(BROKEN, 4)]

    cut = broken_after_three_steps(model, tmp_path / "b", parameter=parameter)
    assert cut.train(StopFlag(), steps=3)
    flag = StopFlag()
    flag.requested = True
    assert not cut.train(flag)
    assert cut.step == 7
    resumed = open_trainer(model, sweep_of(), tmp_path / "b")
    assert resumed.resume()
    assert resumed.stopped == cut.stopped == reference.stopped
    assert resumed.train(StopFlag())
    assert different(state_of(resumed), state_of(reference)) == []
    records = records_of(tmp_path / "b")
    assert records == records_of(tmp_path / "a")
    assert records[BROKEN][-1]["event"] == "stopped"
    # a decoder that is not finite is nobody's peer from the step on; one that is still is in that step
    seen = 1 if parameter == "W_dec" else 2
    for name in sorted(NAMES - {BROKEN}):
        lines = records[name]
        assert [line[PEERS] for line in lines] == [2, 2, 2, seen, *[1] * 8]
        assert all(math.isfinite(line["loss"]) for line in lines)
        assert lines[:3] == whole.records[name][:3]
        assert lines[-1] != whole.records[name][-1]
