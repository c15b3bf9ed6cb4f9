"""Speed of matching two SAEs' latents, against scipy's dense solver."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from eval_recipes.speed.measurement import (
    Row,
    SpeedConfig,
    answer,
    in_fresh_process,
    interleaved,
    peak_gib,
    reset_peak,
    timed_rows,
)
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import cosine, match_many
from saereg_plugin.releases.opening import open_release, require_files

OURS = "saereg"
SCIPY = "scipy linear_sum_assignment"

LARGE = (65_536, 512, 0.05)
"""Latents, entries per latent and shared part of the large case."""

_SHARED = (0.05, 0.5)
_NOISE = 0.3
_SAME_TOTAL = 1e-6

Pairs = list[tuple[Tensor, Tensor]]
"""Pairs of matrices with latents as rows."""


def matching_rows(config: SpeedConfig) -> Iterator[Row]:
    """
    Match decoders and encoders of two SAEs, by both solvers in turns.

    The SAEs have the first shape's ``d_sae`` and ``d_in``: planted ones of which 5 % or
    50 % are shared, and the first two of ``config.release``. The time of either solver
    includes the similarities it works on.

    Raises:
        RuntimeError: if the totals differ, or ours is not proven optimal.
    """
    shape = config.shapes[0]
    for shared in _SHARED:
        pairs = [
            planted(shape.d_sae, shape.d_in, shared, seed=config.seed + number)
            for number in range(2)
        ]
        case = f"2 x {shape.d_sae}^2 x {shape.d_in}, {shared:.0%} shared"
        yield from _timed(case, pairs, config)
    if config.release is not None:
        pairs = trained(config.release)
        n, d = pairs[0][0].shape
        yield from _timed(f"2 x {n}^2 x {d}, trained", pairs, config)
    for name in (OURS, SCIPY):
        work = [name, 2, shape.d_sae, shape.d_in, _SHARED[0], config.seed]
        case = f"2 x {shape.d_sae}^2 x {shape.d_in}, {_SHARED[0]:.0%} shared"
        yield Row("matching", case, name, peak_gib=apart(work)["peak_gib"])


def large_rows(config: SpeedConfig) -> Iterator[Row]:
    """Match one pair of dictionaries that no dense solver has the memory for."""
    n, d, shared = LARGE
    found = apart([OURS, 1, n, d, shared, config.seed])
    yield Row(
        suite="matching-large",
        case=f"1 x {n}^2 x {d}, {shared:.0%} shared",
        implementation=f"{OURS}, proven relative gap {found['relative_gap']:g}",
        seconds=found["seconds"],
        throughput=n / found["seconds"],
        unit="latents/s",
        ratio=1.0,
        peak_gib=found["peak_gib"],
    )


def planted(n: int, d: int, shared: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """
    Make two dictionaries [n, d] of random rows, a part of them the same up to noise.

    Shared rows have a cosine of about 0.96 and another place in the second dictionary.
    """
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=generator)
    b = torch.randn(n, d, generator=generator)
    same = round(shared * n)
    b[:same] = a[:same] + _NOISE * b[:same]
    return a, b[torch.randperm(n, generator=generator)]


def first_two(release: str) -> list[Path]:
    """
    Return the folders of a release's first two SAEs.

    Raises:
        InputError: if it has fewer than two, is no folder or snapshot, or a file differs.
    """
    opened = open_release(release)
    if opened.folder is None or len(opened.entries) < 2:
        raise InputError(
            f"Release {release!r} has {len(opened.entries)} SAEs in a local folder; "
            "expected two or more."
        )
    paths = [entry.path for entry in opened.entries[:2]]
    require_files(opened, paths)
    return [opened.folder / path for path in paths]


def trained(release: str) -> Pairs:
    """Read the decoders and the encoders of a release's first two SAEs."""
    from sae_lens import SAE

    first, second = (SAE.load_from_disk(str(path)) for path in first_two(release))
    return [
        (first.W_dec.detach(), second.W_dec.detach()),
        (first.W_enc.detach().T, second.W_enc.detach().T),
    ]


def by_scipy(pairs: Pairs) -> list[float]:
    """Match one pair after the other by |cos| on a dense float64 matrix; return totals."""
    totals: list[float] = []
    for a, b in pairs:
        cost = cosine(a, b).abs_().double().neg_().numpy()
        rows, columns = linear_sum_assignment(cost)
        totals.append(-float(cost[rows, columns].sum()))
    return totals


def _timed(case: str, pairs: Pairs, config: SpeedConfig) -> Iterator[Row]:
    totals: dict[str, list[float]] = {}

    def ours() -> None:
        found = match_many(pairs)
        if any(matching.gap for matching in found):
            raise RuntimeError(f"{case}: not proven optimal.")
        totals[OURS] = [float(one.similarity.double().sum()) for one in found]

    def scipy() -> None:
        totals[SCIPY] = by_scipy(pairs)

    # compiles the solver's loops, or reads them from their cache
    match_many([planted(64, 8, 0.5, seed=0)])
    calls: dict[str, Callable[[], object]] = {OURS: ours, SCIPY: scipy}
    timed = interleaved(calls, repeats=config.repeats, warm_up=0, label=case)
    for own, other in zip(totals[OURS], totals[SCIPY], strict=True):
        if abs(own - other) > _SAME_TOTAL * abs(other):
            raise RuntimeError(f"{case}: totals are {own} and {other}.")
    latents = sum(len(a) for a, _ in pairs)
    yield from timed_rows(
        "matching", case, timed, work=latents, unit="latents/s", seed=config.seed
    )


def apart(work: list[Any]) -> dict[str, float]:
    """
    Match planted dictionaries in a fresh process; return its figures.

    ``work``: implementation, number of pairs, n, d, shared part and seed.

    Returns:
        ``seconds``, ``peak_gib`` (most resident memory of the process beyond what it had
        after its imports, dictionaries included), ``whole_gib`` (all of it) and
        ``relative_gap``.

    Raises:
        RuntimeError: if that process fails; its last line of output is in the message.
    """
    return in_fresh_process("eval_recipes.speed.matching", work, f"Matching {work}")


def _measure(
    name: str, count: int, n: int, d: int, shared: float, seed: int
) -> dict[str, float]:
    match_many([planted(64, 8, 0.5, seed=0)])
    before = reset_peak("cpu")
    pairs = [planted(n, d, shared, seed=seed + number) for number in range(count)]
    started = time.perf_counter()
    gap = 0.0
    if name == SCIPY:
        by_scipy(pairs)
    else:
        gap = max(one.relative_gap for one in match_many(pairs))
    seconds = time.perf_counter() - started
    peak = peak_gib("cpu")
    return {
        "seconds": seconds,
        "peak_gib": peak - before,
        "whole_gib": peak,
        "relative_gap": gap,
    }


if __name__ == "__main__":
    answer(_measure)
