"""
Cost of syncing checkpoints to the disk: ``python tests/benchmarks/durability.py OUT``.

Checkpoints are hashed in both arms, so that the difference is that of ``fsync`` alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median

from rich.console import Console

from eval_recipes.studies.demo import DEMO_SWEEP
from saereg_plugin.process import StopFlag
from saereg_plugin.sweeps import SweepConfig, SweepTrainer, expand, open_trainer

_SWEEP = replace(DEMO_SWEEP, sae={**DEMO_SWEEP.sae, "d_sae": 2048})


def measure(sweep: SweepConfig, out: Path, *, steps: int, repeats: int) -> str:
    """Time ``steps`` steps, and checkpoints with and without syncing in turns; return a line."""
    trainer = open_trainer(sweep, expand(sweep), out)
    trainer.train(StopFlag(), steps=5)
    started = time.perf_counter()
    trainer.train(StopFlag(), steps=steps)
    training = time.perf_counter() - started
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * repeats):
        synced = number % 2 == 0
        with nullcontext() if synced else _without_fsync():
            seconds[synced].append(_checkpoint(trainer))
    trainer.stream.close()
    with_sync, without = median(seconds[True]), median(seconds[False])
    share = (with_sync - without) / (training + without)
    return (
        f"{steps} steps {training:.1f} s; checkpoint, hashed in both arms, {with_sync:.2f} s synced, "
        f"{without:.2f} s not ({seconds[True]}, {seconds[False]}); syncing costs {share:.2%} of a sweep"
    )


@contextmanager
def _without_fsync() -> Iterator[None]:
    fsync = os.fsync
    os.fsync = lambda _: None
    try:
        yield
    finally:
        os.fsync = fsync


def _checkpoint(trainer: SweepTrainer) -> float:
    started = time.perf_counter()
    trainer.save_checkpoint()
    return time.perf_counter() - started


if __name__ == "__main__":
    Console().print(measure(_SWEEP, Path(sys.argv[1]), steps=250, repeats=5))
