"""Settings of the MNIST study: the paper's six, one in two readings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from saereg_plugin.checks import MAX_SEED, require_count, require_seed
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.machine import require_memory

Penalty = Literal["none", "l1", "l2", "frobenius"]
DataOrder = Literal["per-seed", "shared"]

UntiedInit = Literal["kaiming", "linear"]

TiedBDec = Literal["geometric-median", "none"]

SEEDS = (0, 1, 2)

PIXELS = 784

STUDY = ("mnist", "paper")
"""Name and scale that the study's folder is marked with."""

_MAX_EPOCHS = 1_000_000
_COPIES = 4
"""Copies of every weight in memory: itself, its gradient and Adam's two moments."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """
    One way to train an SAE on MNIST (arXiv 2603.04198).

    ``tied`` means the start: the encoder begins as the decoder's transpose and is a matrix
    of its own from then on. (Shared weights would make every encoder-decoder cosine 1, yet
    the paper's shares of all and of alive latents differ.) Its decoder rows are scaled to
    norm 1 after every step, and it has an encoder and a decoder bias. An untied SAE has no
    bias at all, and its decoder is free.
    """

    name: str
    tied: bool
    penalty: Penalty = "none"
    strength: float = 0.0
    """Factor of the penalty; see ``penalties``."""

    @property
    def label(self) -> str:
        """Name for tables."""
        base = "tied, unit norm" if self.tied else "untied"
        return f"{base}, {PENALTY_LABELS[self.penalty]}"


PENALTY_LABELS: dict[Penalty, str] = {
    "none": "no penalty",
    "l1": "L1",
    "l2": "L2 (sum of squares)",
    "frobenius": "L2 (un-squared norms)",
}

SETTINGS = (
    Setting(name="untied", tied=False),
    Setting(name="tied", tied=True),
    Setting(name="untied-l2", tied=False, penalty="l2", strength=1e-5),
    Setting(name="tied-frobenius", tied=True, penalty="frobenius", strength=1e-5),
    Setting(name="tied-l2", tied=True, penalty="l2", strength=1e-5),
    Setting(name="untied-l1", tied=False, penalty="l1", strength=1e-3),
    Setting(name="tied-l1", tied=True, penalty="l1", strength=1e-3),
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings that all runs share; the defaults are the paper's."""

    d_sae: int = 1568
    epochs: int = 100
    batch_size: int = 512
    learning_rate: float = 1e-3
    activation_l1: float = 0.1
    """Factor of the activations' mean over samples and latents."""
    data_order: DataOrder = "per-seed"
    """Whether each seed has its own order, as in the paper, or all share one."""
    drop_last: bool = False
    """Leave out the last, smaller batch of an epoch."""
    untied_init: UntiedInit = "kaiming"
    """Bound of the uniform draws: ``kaiming`` sqrt(6 / fan_in), ``linear`` 1 / sqrt(fan_in)."""
    tied_b_dec: TiedBDec = "geometric-median"
    """
    Decoder bias of tied SAEs: trained, from the geometric median of the first batch, as in
    the public notebook; or none.
    """

    def __post_init__(self) -> None:
        require_count("The number of epochs (--epochs)", self.epochs, most=_MAX_EPOCHS)
        if self.d_sae < 2:
            raise InputError(
                f"The number of latents (--d-sae) is {self.d_sae}; expected 2 or more."
            )
        weights = 2 * self.d_sae * PIXELS * _COPIES
        require_memory(
            f"An SAE of {self.d_sae} latents (--d-sae)",
            4 * weights,
            torch.device("cpu"),
        )

    def of(self, setting: Setting) -> dict[str, Any]:
        """Return the fields that make a difference to SAEs of ``setting``."""
        unused = "untied_init" if setting.tied else "tied_b_dec"
        return {name: value for name, value in asdict(self).items() if name != unused}


@dataclass(frozen=True)
class Run:
    """One SAE to train."""

    setting: Setting
    seed: int

    def __post_init__(self) -> None:
        require_seed("Seed", self.seed)

    @property
    def name(self) -> str:
        """Folder of the run below the study's."""
        return f"{self.setting.name}/seed{self.seed}"


def chosen_settings(names: Sequence[str]) -> tuple[Setting, ...]:
    """
    Return the settings with these names; all if there are none.

    Raises:
        InputError: for an unknown name.
    """
    known = {setting.name: setting for setting in SETTINGS}
    for name in names:
        if name not in known:
            raise InputError(f"There is no setting {name!r}. {suggest(name, known)}")
    return tuple(known[name] for name in dict.fromkeys(names)) or SETTINGS


def schedule(settings: tuple[Setting, ...], seeds: tuple[int, ...]) -> list[Run]:
    """
    Return every run, ordered so that each setting soon has a first pair of seeds.

    >>> [run.name for run in schedule(SETTINGS[:2], (0, 1, 2))]
    ['untied/seed0', 'untied/seed1', 'tied/seed0', 'tied/seed1', 'untied/seed2', 'tied/seed2']
    """
    first = [Run(setting, seed) for setting in settings for seed in seeds[:2]]
    return first + [Run(setting, seed) for seed in seeds[2:] for setting in settings]


def seeds_in(out: Path) -> list[int]:
    """Return the seeds of the runs that there are below a study's folder."""
    folders = [path for one in SETTINGS for path in (out / one.name).glob("seed*")]
    found = (re.fullmatch(r"seed([0-9]{1,10})", path.name) for path in folders)
    seeds = {int(match[1]) for match in found if match is not None}
    return sorted(seed for seed in seeds if seed <= MAX_SEED)


class Published(NamedTuple):
    """One row of the paper's table, as fractions."""

    mean_max_cos: float
    paired: float
    shared: float
    shared_alive: float


PUBLISHED: dict[str, Published] = {
    "untied": Published(0.2400, 0.0357, 0.0, 0.0),
    "tied": Published(0.4783, 0.4828, 0.0174, 0.0174),
    "untied-l1": Published(0.3260, 0.0466, 0.0321, 0.0060),
    "tied-l1": Published(0.5486, 0.5162, 0.1407, 0.1410),
    "untied-l2": Published(0.5061, 0.0738, 0.0491, 0.0290),
    # the paper has one row of tied L2, compared with both readings
    "tied-frobenius": Published(0.3858, 0.4288, 0.1254, 0.2250),
    "tied-l2": Published(0.3858, 0.4288, 0.1254, 0.2250),
}
