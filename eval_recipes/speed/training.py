"""Training steps: this package, SAELens and other packages on the same batches."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from eval_recipes.speed.config import Row, Shape, SpeedConfig
from eval_recipes.speed.implementations import OURS, SAE_LENS, build_step, peers
from eval_recipes.speed.measurement import (
    Timing,
    interleaved,
    matmul_rate,
    peak_of,
    ratio,
)

SUITE = "training"
_VARIANTS = (
    OURS,
    "saereg L2",
    "saereg L1",
    "saereg without rescaling",
    "saereg unit norm",
    "saereg batchtopk",
)
_VARIANT_REPEATS = 5
"""Times as many repetitions: variants differ by a few per cent."""


def training_rows(config: SpeedConfig) -> Iterator[Row]:
    """Measure every implementation at every shape, in float32 and under autocast."""
    for shape in config.shapes:
        for autocast in (False, True):
            yield from _measured(config, shape, [OURS, *peers()], autocast=autocast)


def memory_rows(config: SpeedConfig) -> Iterator[Row]:
    """Measure the peak memory of every implementation at every shape."""
    for shape in config.shapes:
        for autocast in (False, True):
            ours = None
            for name in (OURS, *peers()):
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
    suite: str = SUITE,
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
    # the first is ours, whose time the others are compared with
    ours = timed[implementations[0]]
    dtype = torch.bfloat16 if autocast else torch.float32
    floor = shape.encoder_flop / matmul_rate(dtype, device=config.device)
    return [
        _row(suite, case, name, timing, ours, shape, floor, config.seed)
        for name, timing in timed.items()
    ]


def _row(
    suite: str,
    case: str,
    name: str,
    timing: Timing,
    ours: Timing,
    shape: Shape,
    floor: float,
    seed: int,
) -> Row:
    against = ratio(timing, ours, seed=seed)
    return Row(
        suite=suite,
        case=case,
        implementation=name,
        seconds=timing.median,
        n=len(timing.seconds),
        throughput=shape.batch / timing.median,
        unit="tokens/s",
        ratio=against.value,
        ratio_low=against.low,
        ratio_high=against.high,
        product_share=floor / timing.median,
    )


def _case(shape: Shape, autocast: bool) -> str:
    return f"{shape} {'autocast' if autocast else 'float32'}"
