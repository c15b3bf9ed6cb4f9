"""Time, memory and disk that a sweep takes, before it is trained."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from saereg_plugin import provenance
from saereg_plugin.sweeps.config import SweepConfig
from saereg_plugin.sweeps.interruption import StopFlag
from saereg_plugin.sweeps.members import expand
from saereg_plugin.sweeps.run import open_trainer


@dataclass(frozen=True)
class Plan:
    """What a sweep would take."""

    saes: int
    parameters: int
    memory_gib: float
    disk_gib: float
    seconds: float
    steps: int


def plan_sweep(sweep: SweepConfig, scratch: Path) -> Plan:
    """
    Measure three steps of a sweep and say what the whole would take; keeps nothing.

    Args:
        sweep: what would be trained.
        scratch: an empty temporary folder.
    """
    members = expand(sweep)
    trainer = open_trainer(sweep, members, scratch)
    # the first fills the buffer and warms up
    trainer.train(StopFlag(), steps=1)
    started, before, done = (
        time.perf_counter(),
        trainer.stream.model_seconds,
        trainer.step,
    )
    trainer.train(StopFlag(), steps=3)
    elapsed = time.perf_counter() - started - (trainer.stream.model_seconds - before)
    step_seconds = elapsed / max(trainer.step - done, 1)
    pass_seconds = trainer.stream.seconds_per_token * sweep.batch_size
    parameters = sum(
        parameter.numel()
        for t in trainer.trainers.values()
        for parameter in t.sae.parameters()
    )
    return Plan(
        saes=len(members),
        parameters=parameters,
        memory_gib=provenance.peak_memory_gib(),
        # weights of the release; the checkpoint adds two moments to them and the buffer
        disk_gib=(parameters * 4 * 4 + sweep.buffer_tokens * members[0].cfg.d_in * 4)
        / 2**30,
        seconds=(step_seconds + pass_seconds) * sweep.steps,
        steps=sweep.steps,
    )
