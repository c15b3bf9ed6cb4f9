"""Time, memory and disk that a sweep takes, before it is trained."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from saereg_plugin import machine, provenance
from saereg_plugin.sources import models
from saereg_plugin.sweeps.config import SweepConfig
from saereg_plugin.sweeps.interruption import StopFlag
from saereg_plugin.sweeps.members import expand
from saereg_plugin.sweeps.resources import disk_of, required_memory
from saereg_plugin.sweeps.run import open_trainer


@dataclass(frozen=True)
class Plan:
    """What a sweep would take."""

    saes: int
    parameters: int
    least_memory_gib: float
    """By arithmetic: weights, optimiser, activations and language model."""
    memory_gib: float
    """Measured: the most that this process has had."""
    has_memory_gib: float
    """What the device has."""
    disk_gib: float
    seconds: float
    steps: int


def plan_sweep(sweep: SweepConfig, scratch: Path) -> Plan:
    """
    Measure three steps of a sweep and say what the whole would take; keeps nothing.

    Args:
        sweep: what would be trained.
        scratch: an empty temporary folder.

    Raises:
        InputError: before anything is allocated, if the sweep cannot work or certainly
            does not fit the memory.
    """
    members = expand(sweep)
    least = required_memory(sweep, members)
    trainer = open_trainer(sweep, members, scratch)
    # the first fills the buffer and warms up
    trainer.train(StopFlag(), steps=1)
    started, before, done = (
        time.perf_counter(),
        trainer.stream.model_seconds,
        trainer.step,
    )
    trainer.train(StopFlag(), steps=3)
    trainer.stream.close()
    elapsed = time.perf_counter() - started - (trainer.stream.model_seconds - before)
    step_seconds = elapsed / max(trainer.step - done, 1)
    pass_seconds = trainer.stream.seconds_per_token * sweep.batch_size
    device = models.require_device(sweep.device)
    return Plan(
        saes=len(members),
        parameters=sum(
            parameter.numel()
            for t in trainer.trainers.values()
            for parameter in t.sae.parameters()
        ),
        least_memory_gib=least.total / 2**30,
        memory_gib=provenance.peak_memory_gib(),
        has_memory_gib=machine.memory_bytes(device) / 2**30,
        disk_gib=disk_of(sweep, members) / 2**30,
        seconds=(step_seconds + pass_seconds) * sweep.steps,
        steps=sweep.steps,
    )
