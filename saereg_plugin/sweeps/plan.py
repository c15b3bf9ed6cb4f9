"""Plans of sweeps: time, memory and disk, before they are trained."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saereg_plugin import machine
from saereg_plugin.activations.config import SourceFacts
from saereg_plugin.errors import InputError
from saereg_plugin.machine import gib
from saereg_plugin.metrics.born_dead import (
    SEVERE_SHARE,
    born_dead_by_relu,
    born_dead_by_spread_topk,
    born_dead_by_topk,
    layer_normalised,
    outlier_severity,
)
from saereg_plugin.process import StopFlag
from saereg_plugin.sweeps.checkpoint import settled
from saereg_plugin.sweeps.config import SweepConfig
from saereg_plugin.sweeps.members import Member, expand
from saereg_plugin.sweeps.source import with_source
from saereg_plugin.sweeps.trainer import open_trainer


@dataclass(frozen=True)
class BornDead:
    """Share of a group's latents that outliers of its activations are predicted to kill."""

    group: str
    point: str
    gamma: float
    """Outlier severity of the activations after LayerNorm (arXiv 2605.31518)."""
    published: float
    """Predicted by the paper's formula, for a decoder bias that starts at 0."""
    share: float
    """Predicted with the spread of whole tokens (ours), which the paper's leaves out."""
    centred: bool
    """Whether the decoder bias starts at a centre, which removes the prediction's cause."""

    @property
    def is_severe(self) -> bool:
        """Whether centring is worth a try."""
        return not self.centred and self.share >= SEVERE_SHARE


@dataclass(frozen=True)
class Plan:
    """Resources of a sweep, and the latents that are predicted to start dead."""

    saes: int
    parameters: int
    least_memory_gib: float
    """By arithmetic: weights, optimiser, activations and language model."""
    memory_gib: float
    """Measured peak of this process."""
    has_memory_gib: float
    """Memory of the device."""
    disk_gib: float
    seconds: float
    steps: int
    born_dead: tuple[BornDead, ...] = ()
    """By group."""


def plan_sweep(sweep: SweepConfig, scratch: Path) -> Plan:
    """
    Measure three steps of a sweep and extrapolate to the whole sweep; keeps nothing.

    Args:
        sweep: the sweep.
        scratch: an empty temporary folder.

    Raises:
        InputError: before anything is allocated, if the sweep cannot work or certainly
            does not fit the memory.
    """
    sweep = settled(sweep, scratch)
    sweep, facts = with_source(sweep)
    members = expand(sweep, facts)
    least = required_memory(sweep, members, facts)
    trainer = open_trainer(sweep, members, scratch, facts)
    # the first fills the buffer and warms up
    trainer.train(StopFlag(), steps=1)
    started, done = time.perf_counter(), trainer.step
    before = trainer.stream.model_seconds
    trainer.train(StopFlag(), steps=3)
    born_dead = predict_born_dead(members, trainer.stream.peek())
    trainer.stream.close()
    elapsed = time.perf_counter() - started - (trainer.stream.model_seconds - before)
    step_seconds = elapsed / max(trainer.step - done, 1)
    pass_seconds = trainer.stream.seconds_per_row * sweep.batch_size
    device = machine.require_device(sweep.device)
    return Plan(
        saes=len(members),
        parameters=sum(
            parameter.numel()
            for t in trainer.trainers.values()
            for parameter in t.sae.parameters()
        ),
        least_memory_gib=least.total / 2**30,
        memory_gib=machine.peak_memory_gib(),
        has_memory_gib=machine.memory_bytes(device) / 2**30,
        disk_gib=disk_of(sweep, members) / 2**30,
        seconds=(step_seconds + pass_seconds) * sweep.steps,
        steps=sweep.steps,
        born_dead=born_dead,
    )


_MOST_ROWS = 16_384
"""Rows that the outlier severity is measured on, at most."""


def predict_born_dead(
    members: Sequence[Member], activations: Mapping[str, Tensor]
) -> tuple[BornDead, ...]:
    """
    Return the predicted born-dead share of each group.

    Args:
        members: SAEs of the sweep.
        activations: rows by point, [rows, d_in].
    """
    gammas: dict[str, float] = {}
    for point, rows in activations.items():
        x = layer_normalised(rows[:_MOST_ROWS].cpu())
        mean_square = float(x.square().sum(-1).mean())
        gammas[point] = outlier_severity(mean_square, float(x.mean(0).square().sum()))
    found: dict[str, BornDead] = {}
    for member in members:
        cfg: Any = member.cfg
        gamma, k = gammas[member.point], getattr(cfg, "k", None)
        published = share = born_dead_by_relu(gamma)
        if k is not None:
            published = born_dead_by_topk(gamma, k=k, d_sae=cfg.d_sae)
            share = born_dead_by_spread_topk(gamma, k=k, d_sae=cfg.d_sae)
        centred = cfg.b_dec_init != "zero" and cfg.apply_b_dec_to_input
        found[member.group] = BornDead(
            member.group, member.point, gamma, published, share, centred
        )
    return tuple(found.values())


_FLOAT = 4
"""Bytes of an activation, and of a moment of Adam's."""


@dataclass(frozen=True)
class Memory:
    """Least bytes that a sweep holds at once."""

    saes: int
    """Weights, Adam's two moments, copies of mechanics, and the gradient of one SAE."""
    buffer: int
    """Activations, twice while they are shuffled."""
    model: int
    """Language model and one pass of it."""

    @property
    def total(self) -> int:
        """Sum of the parts."""
        return self.saes + self.buffer + self.model


def least_parameters(member: Member) -> int:
    """Return the number of weights in encoder and decoder, which every SAE has."""
    return 2 * member.cfg.d_in * member.cfg.d_sae


def _kept(member: Member) -> int:
    """Return the numbers that an SAE keeps between steps: weights, moments, copies of mechanics."""
    cfg: Any = member.cfg
    copies = sum(mechanic.weight_copies for mechanic in cfg.mechanics)
    return (3 + copies) * least_parameters(member)


def memory_of(
    sweep: SweepConfig, members: Sequence[Member], facts: SourceFacts
) -> Memory:
    """Return the least memory of a sweep; allocates nothing."""
    sizes = [machine.torch_dtype(member.cfg.dtype).itemsize for member in members]
    kept = sum(_kept(member) * size for member, size in zip(members, sizes))
    gradient = max(least_parameters(m) * size for m, size in zip(members, sizes))
    d_in = sum(facts.points.values())
    dtype = sweep.llm_dtype
    if dtype == machine.AUTO:
        dtype = machine.fast_dtype(machine.resolve_device(sweep.device))
    one_pass = sweep.prompts_per_pass * sweep.context_size * d_in * _FLOAT
    return Memory(
        saes=kept + gradient,
        buffer=2 * sweep.buffer_tokens * d_in * _FLOAT,
        model=facts.parameters * machine.torch_dtype(dtype).itemsize + one_pass,
    )


def required_memory(
    sweep: SweepConfig, members: Sequence[Member], facts: SourceFacts
) -> Memory:
    """
    Return ``memory_of`` a sweep.

    Raises:
        InputError: if the device does not exist or certainly has less memory.
    """
    device = torch.device(machine.resolve_device(sweep.device))
    needed = memory_of(sweep, members, facts)
    machine.require_memory(
        "The sweep",
        needed.total,
        device,
        parts=f"{gib(needed.saes)} for {len(members)} SAEs, {gib(needed.buffer)} for "
        f"buffer_tokens={sweep.buffer_tokens}, {gib(needed.model)} for the model",
        remedy="Train fewer or narrower SAEs, or lower buffer_tokens or prompts_per_pass.",
    )
    return needed


def disk_of(sweep: SweepConfig, members: Sequence[Member]) -> int:
    """Return the least peak size of a sweep's folder, in bytes."""
    weights = sum(map(least_parameters, members)) * _FLOAT
    if sweep.steps <= sweep.checkpoint_every:
        return weights
    waiting = int(sweep.buffer_tokens * sweep.mixing_fraction)
    kept = sum(map(_kept, members))
    checkpoint = (kept + waiting * _widths(members)) * _FLOAT
    # a release is written next to the last checkpoint, a checkpoint next to its predecessor
    replaced = sweep.steps > 2 * sweep.checkpoint_every
    return checkpoint + (checkpoint if replaced else weights)


def _widths(members: Sequence[Member]) -> int:
    """Return d_in of all points together."""
    return sum({member.point: member.cfg.d_in for member in members}.values())


def require_disk(sweep: SweepConfig, members: Sequence[Member], folder: Path) -> None:
    """Refuse a folder whose disk certainly has too little free space."""
    needed = disk_of(sweep, members) - _bytes_in(folder)
    free = machine.free_disk_bytes(folder)
    if needed > free:
        raise InputError(
            f"The sweep needs at least {gib(needed)} on the disk of {str(folder)!r} for its "
            f"checkpoint and release; {gib(free)} are free. Make room, or choose another "
            "folder with --out."
        )


def _bytes_in(folder: Path) -> int:
    """Return the bytes of an interrupted run, which is replaced."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
