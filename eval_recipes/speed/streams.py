"""Many SAEs on one stream of activations, against the sum of their parts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eval_recipes.speed.config import Row, SpeedConfig
from eval_recipes.studies.demo import DEMO_SWEEP
from saereg_plugin.process import StopFlag
from saereg_plugin.sweeps import SweepConfig, SweepTrainer, expand, open_trainer

SUITE = "streams"
_COUNTS = (1, 2, 6)
_STEPS = 64


@dataclass(frozen=True)
class StreamTimes:
    """
    Seconds of one batch.

    Attributes:
        sweep: of training all SAEs on it, its share of the language model included.
        step: of training one SAE on it, alone, without the sweep.
        model: of the language model for it.
    """

    sweep: float
    step: float
    model: float


def stream_rows(config: SpeedConfig) -> Iterator[Row]:
    """
    Measure sweeps of 1, 2 and 6 SAEs of the demo's shape.

    The reference is the sweep; the others are sums of its measured parts: "steps + one model"
    is what it cannot be faster than without overlap, "one by one" runs the language model
    anew for every SAE.
    """
    for count in _COUNTS:
        sweep = replace(DEMO_SWEEP, groups={"sae": {}}, seeds=tuple(range(count)))
        times = measure(replace(sweep, device=config.device), steps=_STEPS)
        whole = count * times.step + times.model
        alternatives = {
            "saereg sweep": times.sweep,
            "computed: steps + one model": whole,
            "computed: one by one": count * (times.step + times.model),
        }
        for name, seconds in alternatives.items():
            yield Row(
                suite=SUITE,
                case=f"{count} SAEs of the demo",
                implementation=name,
                seconds=seconds,
                n=_STEPS,
                throughput=sweep.batch_size / seconds,
                unit="tokens/s",
                ratio=seconds / times.sweep,
            )


def measure(sweep: SweepConfig, *, steps: int) -> StreamTimes:
    """
    Train ``steps`` steps of a sweep, and single steps of its SAEs, in turns.

    The buffer is counted by what is used of it: the model's time is that of one
    activation times the batch.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = open_trainer(sweep, expand(sweep), Path(folder))
        try:
            trainer.train(StopFlag(), steps=2)
            sweep_seconds, step_seconds = 0.0, []
            for _ in range(4):
                in_model = trainer.stream.model_seconds
                started = time.perf_counter()
                trainer.train(StopFlag(), steps=steps // 4)
                elapsed = time.perf_counter() - started
                sweep_seconds += elapsed - (trainer.stream.model_seconds - in_model)
                step_seconds += _single_steps(trainer, steps // 4)
        finally:
            trainer.stream.close()
        model = trainer.stream.seconds_per_token * sweep.batch_size
    return StreamTimes(
        sweep=sweep_seconds / steps + model,
        step=float(np.mean(step_seconds)),
        model=model,
    )


def _single_steps(trainer: SweepTrainer, repeats: int) -> list[float]:
    """Return the seconds of bare steps, spread over the SAEs."""
    batch = trainer.stream.peek()[: trainer.sweep.batch_size]
    saes = list(trainer.trainers.values())
    seconds = []
    for number in range(max(repeats, len(saes))):
        started = time.perf_counter()
        saes[number % len(saes)].step(batch)
        seconds.append(time.perf_counter() - started)
    return seconds
