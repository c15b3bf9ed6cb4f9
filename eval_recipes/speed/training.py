"""Speed and memory of training steps and sweeps."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval_recipes.speed.implementations import (
    OURS,
    SAE_LENS,
    SCREENED,
    UNSCREENED,
    build_step,
    peers,
)
from eval_recipes.speed.measurement import (
    Row,
    Shape,
    SpeedConfig,
    answer,
    in_fresh_process,
    interleaved,
    matmul_rate,
    peak_gib,
    reset_peak,
    timed_rows,
)
from eval_recipes.studies.demo import DEMO_SWEEP
from saereg_plugin.process import StopFlag
from saereg_plugin.sweeps import SweepConfig, SweepTrainer, expand, open_trainer

_VARIANTS = (
    OURS,
    "saereg L2",
    "saereg L1",
    "saereg without rescaling",
    "saereg unit norm",
    "saereg batchtopk",
    "saereg unscreened batchtopk",
)
_STREAM_COUNTS = (1, 2, 6)
_STREAM_STEPS = 64
_MEMORY_STEPS = 2
_VARIANT_REPEATS = 5
"""Factor of repetitions, since variants differ by a few per cent."""


def training_rows(config: SpeedConfig) -> Iterator[Row]:
    """Measure every implementation at every shape, in float32 and under autocast."""
    for shape in config.shapes:
        for autocast in (False, True):
            ours = _own(config.device, autocast=autocast)
            yield from _measured(config, shape, [*ours, *peers()], autocast=autocast)


def _own(device: str, *, autocast: bool) -> list[str]:
    """Return this package's ways to make a step; the first is the default."""
    # under autocast nothing is screened
    if autocast:
        return [OURS]
    # on a GPU the default is not to screen
    screened = [] if torch.device(device).type == "cpu" else [SCREENED]
    return [OURS, UNSCREENED, *screened]


def memory_rows(config: SpeedConfig) -> Iterator[Row]:
    """Measure the peak memory of every implementation at every shape."""
    for shape in config.shapes:
        for autocast in (False, True):
            ours = None
            for name in (*_own(config.device, autocast=autocast), *peers()):
                peak = peak_of(
                    name,
                    shape,
                    autocast=autocast,
                    device=config.device,
                    seed=config.seed,
                )
                ours = peak if ours is None else ours
                yield Row(
                    suite="memory",
                    case=_case(shape, autocast),
                    implementation=name,
                    ratio=peak / ours,
                    peak_gib=peak,
                )


def variant_rows(config: SpeedConfig) -> Iterator[Row]:
    """Measure what penalties, unit norm and BatchTopK add to our step at the first shape."""
    shape = config.shapes[0]
    repeats = config.repeats * _VARIANT_REPEATS
    yield from _measured(
        replace(config, repeats=repeats), shape, _VARIANTS, suite="variants"
    )
    batch_top_k = ("saereg batchtopk", "sae_lens batchtopk")
    yield from _measured(config, shape, batch_top_k, suite="variants")


def growth_rows(config: SpeedConfig) -> Iterator[Row]:
    """Measure how our step and SAELens' grow with d_sae, k and batch from the first shape."""
    base = config.shapes[0]
    for changes in (
        {},
        {"d_sae": base.d_sae // 4},
        {"d_sae": base.d_sae * 2},
        {"k": base.k // 4},
        {"k": base.k * 4},
        {"batch": base.batch // 4},
    ):
        sizes = {**vars(base), **changes}
        # a small first shape has no quarter
        if min(sizes.values()) >= 1 and sizes["k"] <= sizes["d_sae"]:
            yield from _measured(
                config, Shape(**sizes), [OURS, SAE_LENS], suite="growth"
            )


def _measured(
    config: SpeedConfig,
    shape: Shape,
    implementations: Sequence[str],
    *,
    autocast: bool = False,
    suite: str = "training",
) -> list[Row]:
    steps = {
        name: build_step(
            name, shape, autocast=autocast, device=config.device, seed=config.seed
        )
        for name in implementations
    }
    case = _case(shape, autocast)
    timed = interleaved(steps, repeats=config.repeats, device=config.device, label=case)
    steps.clear()
    gc.collect()
    dtype = torch.bfloat16 if autocast else torch.float32
    floor = shape.encoder_flop / matmul_rate(dtype, device=config.device)
    rows = timed_rows(
        suite, case, timed, work=shape.batch, unit="tokens/s", seed=config.seed
    )
    return [
        replace(row, product_share=floor / timed[row.implementation].median)
        for row in rows
    ]


def _case(shape: Shape, autocast: bool) -> str:
    return f"{shape} {'autocast' if autocast else 'float32'}"


def peak_of(
    name: str, shape: Shape, *, autocast: bool, device: str, seed: int
) -> float:
    """
    Return the GiB that training takes at the most beyond what the process had before.

    A fresh process imports everything, notes its memory, builds weights and optimiser
    and trains two steps.

    Raises:
        RuntimeError: if that process fails; its last line of output is in the message.
    """
    work = [name, vars(shape), autocast, device, seed]
    return in_fresh_process(
        "eval_recipes.speed.training", work, f"Measuring the memory of {name}"
    )


def _peak(
    name: str, shape: dict[str, int], autocast: bool, device: str, seed: int
) -> float:
    settings: dict[str, Any] = {"autocast": autocast, "device": device, "seed": seed}
    # a step of the smallest size imports and initialises what is loaded lazily
    build_step(name, Shape(d_in=8, d_sae=64, k=2, batch=8), **settings)()
    before = reset_peak(device)
    step = build_step(name, Shape(**shape), **settings)
    for _ in range(_MEMORY_STEPS):
        step()
    return peak_gib(device) - before


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
    for count in _STREAM_COUNTS:
        sweep = replace(DEMO_SWEEP, groups={"sae": {}}, seeds=tuple(range(count)))
        times = measure(replace(sweep, device=config.device), steps=_STREAM_STEPS)
        whole = count * times.step + times.model
        alternatives = {
            "saereg sweep": times.sweep,
            "computed: steps + one model": whole,
            "computed: one by one": count * (times.step + times.model),
        }
        for name, seconds in alternatives.items():
            yield Row(
                suite="streams",
                case=f"{count} SAEs of the demo",
                implementation=name,
                seconds=seconds,
                n=_STREAM_STEPS,
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
        model = trainer.stream.seconds_per_row * sweep.batch_size
    return StreamTimes(
        sweep=sweep_seconds / steps + model,
        step=float(np.mean(step_seconds)),
        model=model,
    )


def _single_steps(trainer: SweepTrainer, repeats: int) -> list[float]:
    """Return the seconds of bare steps, spread over the SAEs."""
    (waiting,) = trainer.stream.peek().values()
    batch = waiting[: trainer.sweep.batch_size]
    saes = list(trainer.trainers.values())
    seconds = []
    for number in range(max(repeats, len(saes))):
        started = time.perf_counter()
        saes[number % len(saes)].step(batch)
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    answer(_peak)
