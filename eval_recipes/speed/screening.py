"""Time of screened selections against plain ones as sizes grow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from eval_recipes.speed.measurement import (
    Row,
    Shape,
    SpeedConfig,
    interleaved,
    timed_rows,
)
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path, require_writable
from saereg_plugin.kernels.screening import (
    can_screen,
    candidate_counts,
    screen_top_k,
    screening_wins,
)
from saereg_plugin.kernels.top_k import PreActivations, select_top_k

SUITE = "screening"
BASE = Shape(batch=2048)
CURVES: Mapping[str, tuple[int, ...]] = {
    "k": (8, 16, 32, 64, 128, 256, 512),
    "d_in": (512, 1024, 2048, 4096),
    "d_sae": (4096, 8192, 16_384, 32_768, 65_536, 131_072),
    "batch": (256, 512, 1024, 4096),
}
"""Values of each size, the others as in ``BASE``."""


def screening_rows(
    config: SpeedConfig,
    *,
    base: Shape = BASE,
    curves: Mapping[str, tuple[int, ...]] = CURVES,
) -> Iterator[Row]:
    """
    Measure the selection of latents, screened and not, along each curve.

    A screen is prepared for each batch, as in training.
    Inputs and encoders are standard normal, the encoders' vectors of norm .1 as at the
    start of training.
    """
    for name, values in curves.items():
        for value in values:
            yield from _selection_rows(config, name, replace(base, **{name: value}))


def _selection_rows(config: SpeedConfig, curve: str, shape: Shape) -> Iterator[Row]:
    pre = _pre_activations(shape, device=config.device, seed=config.seed)
    if not can_screen(pre, shape.k):
        return
    calls = {
        "screened": lambda: screen_top_k(pre, shape.k),
        "unscreened": lambda: select_top_k(pre, shape.k),
    }
    case = f"{curve} {getattr(shape, curve)}: {shape}"
    timed = interleaved(calls, repeats=config.repeats, device=config.device, label=case)
    counts = candidate_counts(pre, shape.k)
    rows = timed_rows(
        SUITE, case, timed, work=shape.batch, unit="rows/s", seed=config.seed
    )
    for row in rows:
        if row.implementation == "screened":
            row = replace(
                row,
                candidates=float(counts.double().median()),
                chosen=screening_wins(pre, shape.k),
            )
        yield row


def _pre_activations(shape: Shape, *, device: str, seed: int) -> PreActivations:
    generator = torch.Generator().manual_seed(seed)
    sae_in = torch.randn(shape.batch, shape.d_in, generator=generator)
    weight = torch.randn(shape.d_in, shape.d_sae, generator=generator)
    weight *= 0.1 / weight.norm(dim=0)
    bias = torch.zeros(shape.d_sae, device=device)
    return PreActivations(
        sae_in.to(device), weight.to(device), bias, None, torch.float32
    )


def require_picture(path: Path, suites: Iterable[str]) -> None:
    """
    Refuse a picture that cannot be drawn or written.

    Raises:
        InputError: if the suite is not measured, or the file is no PNG of a folder in which
            files can be made.
    """
    if SUITE not in suites:
        raise InputError(
            f"The picture {str(path)!r} shows the suite {SUITE!r}, which is not measured. Add "
            f"--suite {SUITE}, or leave --plot out."
        )
    if path.suffix.lower() != ".png" or path.is_dir():
        raise InputError(
            f"The picture {str(path)!r} is no PNG file; expected a name such as 'screening.png'."
        )
    require_writable(path.parent)


def plot_screening(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """
    Draw the speed-up by screening along each curve into a PNG file.

    Args:
        rows: of the suite ``screening``, as ``run_speed`` writes them.
        path: of the picture.
    """
    found = [row for row in rows if row["implementation"] == "unscreened"]
    # a file of an earlier version lacks some
    names = list(dict.fromkeys(row["case"].split()[0] for row in found))
    figure = Figure(figsize=(3 * len(names), 3), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for plot, name in zip(axes, names, strict=True):
        points = [row for row in found if row["case"].split()[0] == name]
        x = [int(row["case"].split()[1].rstrip(":")) for row in points]
        y = [row["ratio"] for row in points]
        ends = [
            [row["ratio"] - row["ratio_low"] for row in points],
            [row["ratio_high"] - row["ratio"] for row in points],
        ]
        plot.errorbar(x, y, yerr=ends, marker="o", capsize=3)
        plot.axhline(1, color="grey", linewidth=0.8)
        plot.set_xscale("log", base=2)
        plot.set_xlabel(name)
    axes[0].set_ylabel("speed-up of the selection")
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=150)
