"""Training steps: this package, SAELens and other packages on the same batches."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import torch

from eval_recipes.speed.config import Shape, SpeedConfig
from eval_recipes.speed.implementations import OURS, SAE_LENS, build_step, peers
from eval_recipes.speed.memory import peak_of
from eval_recipes.speed.rows import Row
from eval_recipes.speed.timing import Timing, interleaved, matmul_rate, ratio

SUITE = "training"
_VARIANTS = (OURS, "saereg unit norm", "saereg L2", "saereg L1", "saereg batchtopk")


def training_rows(config: SpeedConfig) -> Iterator[Row]:
    """Measure every implementation at every shape, in float32 and under autocast."""
    for shape in config.shapes:
        for autocast in (False, True):
            yield from _measured(
                config, shape, [OURS, *peers()], autocast=autocast, memory=config.memory
            )


def variant_rows(config: SpeedConfig) -> Iterator[Row]:
    """Measure what penalties, unit norm and BatchTopK add to our step at the first shape."""
    variants = [*_VARIANTS, "sae_lens batchtopk"]
    yield from _measured(config, config.shapes[0], variants, suite="variants")


def growth_rows(config: SpeedConfig) -> Iterator[Row]:
    """Measure how our step and SAELens' grow with k and batch (shapes give d_sae)."""
    base = config.shapes[0]
    for k in (base.k // 4, base.k * 4):
        yield from _measured(config, _with(base, k=max(1, k)), [OURS, SAE_LENS])
    yield from _measured(config, _with(base, batch=base.batch // 4), [OURS, SAE_LENS])


def _measured(
    config: SpeedConfig,
    shape: Shape,
    implementations: Sequence[str],
    *,
    autocast: bool = False,
    memory: bool = False,
    suite: str = SUITE,
) -> list[Row]:
    steps = {
        name: build_step(
            name, shape, autocast=autocast, device=config.device, seed=config.seed
        )
        for name in implementations
    }
    case = f"{shape} {'autocast' if autocast else 'float32'}"
    timed = interleaved(steps, repeats=config.repeats, device=config.device, label=case)
    steps.clear()
    gc.collect()
    dtype = torch.bfloat16 if autocast else torch.float32
    floor = shape.encoder_flop / matmul_rate(dtype, device=config.device)
    return [
        _row(
            suite,
            case,
            name,
            timing,
            timed[OURS],
            shape,
            floor,
            config,
            peak_of(
                name, shape, autocast=autocast, device=config.device, seed=config.seed
            )
            if memory
            else None,
        )
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
    config: SpeedConfig,
    peak: float | None,
) -> Row:
    against = ratio(timing, ours, seed=config.seed)
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
        peak_gib=peak,
        product_share=floor / timing.median,
    )


def _with(shape: Shape, **changes: int) -> Shape:
    return Shape(**{**vars(shape), **changes})
