"""Cost of dead latents, and the part that screening could save."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from eval_recipes.speed.implementations import OURS, Step, build_trainer
from eval_recipes.speed.measurement import (
    Row,
    Shape,
    SpeedConfig,
    interleaved,
    timed_rows,
)
from saereg_plugin.kernels.top_k import top_k

SUITE = "dead"
SHARES = (0.1, 0.3)
"""Shares of all latents that are dead."""

_CHUNK_ENTRIES = 2**22
"""As in ``kernels.aux_loss``."""


def dead_rows(config: SpeedConfig) -> Iterator[Row]:
    """
    Measure a float32 step with dead latents against parts of it, at every shape.

    The parts are the product of AuxK over the dead latents, and this product with its
    selection; the rest of AuxK is the same for any selection.
    """
    for shape in config.shapes:
        for share in SHARES:
            case = f"{shape} float32, {share:.0%} dead"
            timed = interleaved(
                _calls(shape, share, device=config.device, seed=config.seed),
                repeats=config.repeats,
                device=config.device,
                label=case,
            )
            yield from timed_rows(
                SUITE,
                case,
                timed,
                work=shape.batch,
                unit="tokens/s",
                seed=config.seed,
            )


def _calls(shape: Shape, share: float, *, device: str, seed: int) -> dict[str, Step]:
    """Return the step, which is the reference, the step without dead latents, and the parts."""
    torch.manual_seed(seed)
    batch = torch.randn(shape.batch, shape.d_in, device=device)
    trainer = build_trainer(OURS, shape, autocast=False, device=device)
    dead = torch.randperm(shape.d_sae)[: max(1, int(share * shape.d_sae))].to(device)
    encoder = trainer.sae.W_enc.detach()[:, dead].contiguous()
    k = min(shape.d_in // 2, len(dead))
    rows = max(1, _CHUNK_ENTRIES // len(dead))

    def step(latents: torch.Tensor) -> None:
        since_fired = trainer.n_forward_passes_since_fired
        since_fired.zero_()
        since_fired[latents] = trainer.cfg.dead_feature_window + 1
        trainer.step(batch)

    def product(*, select: bool) -> None:
        for part in batch.split(rows):
            values = part @ encoder
            if select:
                top_k(values, k)

    return {
        "saereg": lambda: step(dead),
        "saereg, none dead": lambda: step(dead[:0]),
        "product over dead latents": lambda: product(select=False),
        "product and selection": lambda: product(select=True),
    }
