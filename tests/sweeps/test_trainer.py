"""Training side by side: reproducible, resumable to the last bit, recorded."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput
from transformer_lens import HookedTransformer

from saereg_plugin.owned_folder import open_owned
from saereg_plugin.process import StopFlag
from saereg_plugin.releases.release import KIND
from saereg_plugin.sweeps import SweepConfig, SweepTrainer
from saereg_plugin.sweeps.checkpoint import CHECKPOINT, PROGRESS
from saereg_plugin.sweeps.records import Stopped
from tests.sweeps.tiny import (
    BATCH,
    CHECKPOINT_EVERY,
    D_IN,
    HOOK,
    PENALTY,
    SAE,
    STEPS,
    batch_of,
    different,
    open_stream,
    open_trainer,
    records_of,
    state_of,
    temporal_fields,
    tiny_sweep,
)

UNIT = {
    "architecture": "regularized_batchtopk",
    "decoder_constraint": "unit_norm",
    "b_dec_init": "mean",
}
# finite up to step 7; from step 8 on its weight is 1e38
BURST = {
    **UNIT,
    "regularizers": [
        {
            **PENALTY,
            "schedule": {
                "anneal": "linear",
                "anneal_start": 6,
                "anneal_steps": 1,
                "final_coefficient": 1e38,
            },
        }
    ],
}


def sweep_of_three() -> SweepConfig:
    """Groups that keep state of every kind: moments, running means, counters."""
    groups = {"plain": {}, "l2": {"regularizers": [PENALTY]}, "unit": UNIT}
    return tiny_sweep(groups=groups, lr_warm_up_steps=3, seeds=[1])


@dataclass(frozen=True)
class Finished:
    folder: Path
    state: dict[str, torch.Tensor]
    records: dict[str, list[dict[str, Any]]]


def finish(trainer: SweepTrainer) -> Finished:
    assert trainer.train(StopFlag())
    assert trainer.step == STEPS
    return Finished(trainer.folder, state_of(trainer), records_of(trainer.folder))


def assert_same(run: Finished, reference: Finished) -> None:
    assert different(run.state, reference.state) == []
    assert run.records == reference.records


@pytest.fixture(scope="module")
def uninterrupted(
    model: HookedTransformer, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return finish(open_trainer(model, sweep_of_three(), folder))


def test_same_seed_gives_the_same_weights_to_the_last_bit(
    model: HookedTransformer, tmp_path: Path, uninterrupted: Finished
) -> None:
    torch.manual_seed(99)
    assert_same(finish(open_trainer(model, sweep_of_three(), tmp_path)), uninterrupted)


def test_groups_end_up_different(uninterrupted: Finished) -> None:
    decoders = [
        value for key, value in uninterrupted.state.items() if key.endswith("/W_dec")
    ]
    assert len(decoders) == 3
    for number, decoder in enumerate(decoders):
        assert not any(torch.equal(decoder, other) for other in decoders[:number])


def stop_at(trainer: SweepTrainer, step: int) -> None:
    """Request a stop in the middle of a step, as a signal does."""
    assert trainer.train(StopFlag(), steps=step - 1)
    flag = StopFlag()
    flag.requested = True
    assert not trainer.train(flag)
    assert trainer.step == step


def shown(folder: Path) -> set[str]:
    """Names in a folder without those of its mark."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_interrupted_and_resumed_equals_uninterrupted(
    model: HookedTransformer, tmp_path: Path, uninterrupted: Finished
) -> None:
    stop_at(open_trainer(model, sweep_of_three(), tmp_path), 7)
    assert shown(tmp_path) == {CHECKPOINT, PROGRESS, "records"}
    resumed = open_trainer(model, sweep_of_three(), tmp_path)
    assert resumed.resume()
    assert resumed.step == 7
    assert_same(finish(resumed), uninterrupted)


def test_a_sweep_on_tokens_in_order_resumes_with_its_counts(
    model: HookedTransformer, tmp_path: Path
) -> None:
    sweep = SweepConfig(**temporal_fields())
    whole = open_trainer(model, sweep, tmp_path / "whole")
    reference = finish(whole)
    stop_at(open_trainer(model, sweep, tmp_path / "cut"), 7)
    resumed = open_trainer(model, sweep, tmp_path / "cut")
    assert resumed.resume()
    assert_same(finish(resumed), reference)
    counted = whole.stream.pairs_across_documents()
    assert resumed.stream.pairs_across_documents() == counted
    assert counted is not None
    assert counted["pairs"] == STEPS * (BATCH // 64) * 62
    assert 0 < counted["crossing"] < counted["pairs"]


def test_what_mechanics_did_in_the_last_step_is_recorded_after_resuming(
    model: HookedTransformer, tmp_path: Path
) -> None:
    shrinking = {**PENALTY, "norm": "l1", "mode": "decoupled", "coefficient": 300.0}
    groups = {
        "floor": {"regularizers": [shrinking]},
        "anew": {"mechanics": [{"name": "resampling", "every": 5}]},
    }
    sweep = tiny_sweep(groups=groups, seeds=[0])
    reference = finish(open_trainer(model, sweep, tmp_path / "whole"))
    after = {name: lines[4] for name, lines in reference.records.items()}
    assert after["floor-seed0"]["metrics/row_floor_rows"] > 0
    assert after["anew-seed0"]["metrics/resampling_last_resampled"] > 0
    stop_at(open_trainer(model, sweep, tmp_path / "cut"), 7)
    resumed = open_trainer(model, sweep, tmp_path / "cut")
    assert resumed.resume()
    assert_same(finish(resumed), reference)


KILLED: list[Any] = []
"""Kept, for the collector would run what comes after a yield."""


def leave_half_written_checkpoint(folder: Path) -> None:
    """As a process does that is killed in it: nothing after the yield is run."""
    writing = open_owned(folder, KIND).write_folder(f"{CHECKPOINT}/step-8")
    half = writing.__enter__()
    KILLED.append(writing)
    shutil.copytree(folder / CHECKPOINT / "step-5", half, dirs_exist_ok=True)
    next(half.glob("*/sae_weights.safetensors")).write_bytes(b"cut")
    (half / "stream.pt").unlink()


def stop_before_the_rename(folder: Path) -> None:
    open_owned(folder, KIND).claim([f"{CHECKPOINT}/step-8/checkpoint.json"])


def stop_while_the_old_one_is_removed(folder: Path) -> None:
    """Killed after step 5 was written, while step 4 was being removed."""
    old = folder / CHECKPOINT / "step-4"
    names = ["stream.pt", "plain-seed1/sae_weights.safetensors", "checkpoint.json"]
    open_owned(folder, KIND).claim(f"{CHECKPOINT}/step-4/{name}" for name in names)
    shutil.copytree(folder / CHECKPOINT / "step-5", old)
    for path in old.glob("*-seed1"):
        if path.name != "plain-seed1":
            shutil.rmtree(path)
    for path in old.rglob("*"):
        if path.is_file() and path.relative_to(old).as_posix() not in names[:2]:
            path.unlink()


@pytest.mark.parametrize(
    "leave",
    [
        leave_half_written_checkpoint,
        stop_before_the_rename,
        stop_while_the_old_one_is_removed,
    ],
)
def test_killed_while_writing_a_checkpoint_goes_on_from_the_last_whole_one(
    model: HookedTransformer, tmp_path: Path, uninterrupted: Finished, leave: Any
) -> None:
    killed = open_trainer(model, sweep_of_three(), tmp_path)
    killed.train(StopFlag(), steps=8)
    leave(tmp_path)
    with next((tmp_path / "records").iterdir()).open("a") as file:
        file.write('{"step": 9, "lo')
    resumed = open_trainer(model, sweep_of_three(), tmp_path)
    assert resumed.resume()
    assert resumed.step == CHECKPOINT_EVERY
    assert_same(finish(resumed), uninterrupted)
    assert shown(tmp_path) == {CHECKPOINT, PROGRESS, "records"}
    assert [path.name for path in (tmp_path / CHECKPOINT).iterdir()] == ["step-10"]


def test_killed_before_the_first_checkpoint_starts_again(
    model: HookedTransformer, tmp_path: Path, uninterrupted: Finished
) -> None:
    open_trainer(model, sweep_of_three(), tmp_path).train(StopFlag(), steps=4)
    assert records_of(tmp_path)
    again = open_trainer(model, sweep_of_three(), tmp_path)
    assert not again.resume()
    assert_same(finish(again), uninterrupted)


# Records


def test_records_have_what_the_documentation_promises(uninterrupted: Finished) -> None:
    records = records_of(uninterrupted.folder, timed=True)
    assert set(records) == {"plain-seed1", "l2-seed1", "unit-seed1"}
    common = {
        "step",
        "tokens",
        "loss",
        "losses/mse_loss",
        "losses/auxiliary_reconstruction_loss",
        "explained_variance",
        "l0",
        "alive",
        "dead",
        "lr",
        "gradient_norm",
        "tokens_per_second",
    }
    for name, lines in records.items():
        assert [line["step"] for line in lines] == [1, 2, 4, 6, 8, 10, 12]
        for line in lines:
            assert common <= set(line)
            assert all(isinstance(value, int | float) for value in line.values())
            assert line["tokens"] == line["step"] * BATCH
            assert line["alive"] + line["dead"] == 128
            assert line["l0"] <= 8 if "unit" not in name else line["l0"] == 8
            assert line["tokens_per_second"] > 0
            assert ("losses/weight_penalty" in line) == name.startswith("l2")


def test_rate_of_each_step_is_recorded(uninterrupted: Finished) -> None:
    lines = uninterrupted.records["plain-seed1"]
    rates = {line["step"]: line["lr"] for line in lines}
    # three steps of warm-up, and over the last two of the twelve down to 0
    expected = {1: 1 / 3, 2: 2 / 3, 4: 1, 6: 1, 8: 1, 10: 1, 12: 0.5}
    assert rates == pytest.approx({step: 1e-3 * x for step, x in expected.items()})


@pytest.mark.parametrize(("group", "coefficient"), [("plain", 0.0), ("l2", 1e-2)])
def test_first_record_is_what_stock_saelens_and_autograd_give(
    model: HookedTransformer,
    uninterrupted: Finished,
    group: str,
    coefficient: float,
) -> None:
    stream = open_stream(model, sweep_of_three())
    waiting = stream.peek()[HOOK]
    scaled = batch_of(stream) * math.sqrt(D_IN) / waiting.norm(dim=-1).mean()
    torch.manual_seed(1)
    stock = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=D_IN,
            d_sae=SAE["d_sae"],
            k=SAE["k"],
            normalize_activations="expected_average_only_in",
        )
    )
    output = stock.training_forward_pass(
        TrainStepInput(
            sae_in=scaled,
            coefficients={},
            dead_neuron_mask=torch.zeros(128, dtype=torch.bool),
            n_training_steps=0,
            is_logging_step=False,
        )
    )
    penalty = coefficient * (stock.W_enc.square().sum() + stock.W_dec.square().sum())
    (output.loss + penalty).backward()
    gradients = [p.grad.flatten() for p in stock.parameters() if p.grad is not None]
    norm = float(torch.cat(gradients).double().norm())
    assert norm > 1.5, (
        "SAELens clips at 1, so only a larger norm tells before from after"
    )

    line = uninterrupted.records[f"{group}-seed1"][0]
    assert line["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert line["loss"] == pytest.approx(float(output.loss + penalty), rel=1e-5)
    residual = (output.sae_out - scaled).square().sum()
    variance = (scaled - scaled.mean(0)).square().sum()
    assert line["explained_variance"] == pytest.approx(
        float(1 - residual / variance), rel=1e-4
    )
    l0 = float((output.feature_acts > 0).sum(-1).float().mean())
    assert line["l0"] == pytest.approx(l0)


# Losses that are not finite


def test_sae_with_an_infinite_loss_is_taken_out_and_the_others_go_on(
    model: HookedTransformer, tmp_path: Path, uninterrupted: Finished
) -> None:
    groups = {"burst": BURST, "plain": {}}
    sweep = tiny_sweep(groups=groups, lr_warm_up_steps=3, seeds=[1])
    trainer = open_trainer(model, sweep, tmp_path)
    assert trainer.train(StopFlag())
    assert trainer.stopped == [
        Stopped("burst-seed1", 8, "weight_penalty", CHECKPOINT_EVERY)
    ]
    assert str(trainer.stopped[0]) == (
        "burst-seed1: weight_penalty is not finite in step 8; "
        "its last good checkpoint, of step 5, is kept in stopped/burst-seed1"
    )
    assert (tmp_path / "stopped" / "burst-seed1" / "sae_weights.safetensors").is_file()
    assert set(trainer.trainers) == {"plain-seed1"}
    assert trainer.step == STEPS
    assert not any(
        key.startswith("plain")
        for key in different(state_of(trainer), uninterrupted.state)
    )
    lines = records_of(tmp_path)["burst-seed1"]
    assert [line["step"] for line in lines] == [1, 2, 4, 6, 8]
    assert lines[-1] == {
        "step": 8,
        "event": "stopped",
        "reason": str(trainer.stopped[0]),
    }


def test_sae_left_with_a_broken_weight_never_enters_a_checkpoint(
    model: HookedTransformer, tmp_path: Path
) -> None:
    sweep = tiny_sweep(groups={"plain": {}}, seeds=[0, 1])
    trainer = open_trainer(model, sweep, tmp_path)
    assert trainer.train(StopFlag(), steps=1)
    broken = trainer.trainers["plain-seed0"].sae
    broken.W_enc.data[0, 0] = float("nan")
    trainer.save_checkpoint()
    assert [(s.sae_id, s.step, s.loss) for s in trainer.stopped] == [
        ("plain-seed0", 1, "a weight")
    ]
    assert sorted(p.name for p in (tmp_path / CHECKPOINT / "step-1").iterdir()) == [
        "checkpoint.json",
        "plain-seed1",
        "stream.pt",
    ]


def test_stopped_sae_stays_out_after_resuming(
    model: HookedTransformer, tmp_path: Path
) -> None:
    groups = {"burst": BURST, "plain": {}}
    sweep = tiny_sweep(groups=groups, seeds=[0])
    first = open_trainer(model, sweep, tmp_path)
    stop_at(first, 10)
    resumed = open_trainer(model, sweep, tmp_path)
    assert resumed.resume()
    assert resumed.stopped == first.stopped != []
    assert resumed.train(StopFlag())
    assert set(resumed.trainers) == {"plain-seed0"}
    assert records_of(tmp_path)["burst-seed0"][-1]["event"] == "stopped"


def test_sweep_without_any_sae_left_ends(
    model: HookedTransformer, tmp_path: Path
) -> None:
    trainer = open_trainer(
        model, tiny_sweep(groups={"burst": BURST}, seeds=[0]), tmp_path
    )
    assert trainer.train(StopFlag())
    assert trainer.trainers == {}
    assert trainer.step == 8
