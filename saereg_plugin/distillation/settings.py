"""Settings, parts and groups of a distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from saereg_plugin.checks import MAX_SEED
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.machine import AUTO
from saereg_plugin.metrics.attribution import QUANTILE
from saereg_plugin.releases.opening import open_release
from saereg_plugin.sweeps.config import (
    LANGUAGE_MODEL,
    SweepConfig,
    group_fields,
    read_sweep,
)
from saereg_plugin.sweeps.matched import recorded_sweep
from saereg_plugin.sweeps.source import kind_of_source

Gradient = Literal["activations", "reconstruction"]
"""Point of the gradient: the activations, one pass for all SAEs; or each SAE's x_hat."""

DISTILLED, RANDOM, FREQUENCY, MATCHED = "distilled", "random", "frequency", "matched"
"""Arms. A core by attribution; by chance; by firing rate; one long training without a core."""
CONTROLS = (MATCHED, RANDOM, FREQUENCY)
PLAIN = "plain"
"""Group of the first cycle, which all arms share, unless it comes from a release."""
SHARE = 0.9
"""Share of the total score that a core reaches (arXiv 2512.24975)."""
_FURTHER_SEED = 1_000_003


def cycle_part(cycle: int) -> str:
    """Return the name of a cycle's part, counted from 1."""
    return f"cycle-{cycle}"


@dataclass(frozen=True)
class Distill:
    """
    What is distilled, and next to which controls.

    Attributes:
        sweep: of the first cycle: one group, whose seeds and tokens every cycle has.
        cycles: trainings in a row, 2 or more.
        share: of the total score that the core reaches.
        quantile: q of the score over tokens.
        score_tokens: training tokens that latents are ranked on.
        controls: of ``CONTROLS``.
        gradient: see ``Gradient``.
        first: release folder whose SAEs are the first cycle; None trains them.
    """

    sweep: SweepConfig
    cycles: int = 3
    share: float = SHARE
    quantile: float = QUANTILE
    score_tokens: int = 16_384
    controls: tuple[str, ...] = CONTROLS
    gradient: Gradient = "activations"
    first: str | None = None

    def __post_init__(self) -> None:
        """Refuse settings with which nothing can be distilled."""
        if self.cycles < 2 or self.score_tokens < 1:
            raise InputError(
                f"cycles={self.cycles}, score_tokens={self.score_tokens}; expected 2 cycles or more, "
                "and 1 token or more."
            )
        if not 0 < self.share <= 1 or not 0 <= self.quantile <= 1:
            raise InputError(
                f"share={self.share}, quantile={self.quantile}; expected a share above 0 and up to 1, "
                "and a quantile from 0 to 1."
            )
        for control in self.controls:
            if control not in CONTROLS:
                raise InputError(
                    f"Unknown control {control!r}. {suggest(control, CONTROLS)}"
                )
        if self.gradient not in get_args(Gradient):
            raise InputError(
                f"gradient={self.gradient!r}; expected one of {', '.join(get_args(Gradient))}."
            )
        if len(group_fields(self.sweep)) != 1:
            raise InputError(
                f"The sweep has the groups {', '.join(group_fields(self.sweep))}; expected one group on "
                "one hook. Name it with --group."
            )
        if kind_of_source(self.sweep) != LANGUAGE_MODEL:
            raise InputError(
                f"The sweep reads a source of kind {kind_of_source(self.sweep)!r}; expected a language "
                "model, whose loss the latents are ranked by."
            )

    @property
    def parts(self) -> list[str]:
        """Names of the trainings, in their order; each is a release folder."""
        cycles = [cycle_part(cycle) for cycle in range(1, self.cycles + 1)]
        return [*cycles, *([MATCHED] if MATCHED in self.controls else [])]

    @property
    def arms(self) -> list[str]:
        """Arms that go through the cycles."""
        return [DISTILLED, *(c for c in (RANDOM, FREQUENCY) if c in self.controls)]

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of the SAEs."""
        (fields,) = group_fields(self.sweep).values()
        return fields

    def group(self, arm: str, cycle: int) -> str:
        """Return the group of an arm's SAEs; all arms have one group in the first cycle."""
        if arm == MATCHED:
            return MATCHED
        if cycle > 1:
            return f"{arm}-{cycle}"
        return PLAIN if self.first is None else next(iter(group_fields(self.sweep)))

    def groups_in(self, part: str) -> dict[str, str]:
        """Return the arm of each group of a part; that of the first cycle is ``distilled``."""
        if part == MATCHED:
            return {MATCHED: MATCHED}
        cycle = self.cycle(part)
        if cycle == 1:
            return {self.group(DISTILLED, 1): DISTILLED}
        return {self.group(arm, cycle): arm for arm in self.arms}

    def cycle(self, part: str) -> int:
        """
        Return the number of a part's cycle; the matched SAEs stand next to the last one.

        Raises:
            InputError: for another part.
        """
        if part not in self.parts:
            raise InputError(
                f"No part {part!r} of a distillation. {suggest(part, self.parts)}"
            )
        return self.cycles if part == MATCHED else self.parts.index(part) + 1

    def sweep_of(
        self, part: str, started_from: Mapping[str, str] | None = None
    ) -> SweepConfig:
        """
        Return the sweep of a part.

        A later cycle reads the same text in another order, and the matched SAEs read it as often
        as all cycles together.

        Args:
            part: its name.
            started_from: what each group of a later cycle starts from.
        """
        fields, cycle = self.fields, self.cycle(part)
        core = {"name": "frozen_core"}
        if cycle > 1 and part != MATCHED:
            fields["mechanics"] = [*(fields.get("mechanics") or []), core]
        groups = {name: dict(fields) for name in self.groups_in(part)}
        whole = replace(
            self.sweep,
            sae={},
            grid={},
            groups=groups,
            matched_to={},
            started_from=started_from or {},
        )
        if part == MATCHED:
            return replace(
                whole,
                tokens=self.sweep.tokens * self.cycles,
                text_tokens=self.sweep.text_tokens or _text_of(self.sweep),
            )
        return replace(whole, seed=(self.sweep.seed + cycle - 1) % (MAX_SEED + 1))

    def marks(self) -> dict[str, Any]:
        """Return the settings that decide the cores, as plain JSON."""
        return {
            "share": self.share,
            "quantile": self.quantile,
            "score_tokens": self.score_tokens,
            "gradient": self.gradient,
        }


def _text_of(sweep: SweepConfig) -> int:
    """Return how many tokens of the text a training reads, those left in its buffer included."""
    kept = int(sweep.buffer_tokens * sweep.mixing_fraction)
    read = left = 0
    for _ in range(sweep.steps):
        if left - sweep.batch_size < kept:
            read, left = read + sweep.buffer_tokens - left, sweep.buffer_tokens
        left -= sweep.batch_size
    return read


def initial_seed(seed: int, cycle: int) -> int:
    """Return the seed of the initial weights of a later cycle, which no other cycle has."""
    return (seed + _FURTHER_SEED * (cycle - 1)) % (MAX_SEED + 1)


def read_distill(
    source: str | Path, *, group: str | None = None, device: str = AUTO, **settings: Any
) -> Distill:
    """
    Return the settings of a distillation that begins with a release, or with a sweep.

    Args:
        source: a release folder that ``saereg-bench train`` wrote, whose SAEs are the first
            cycle; or the YAML file of a sweep, which is trained.
        group: whose SAEs are distilled; needed if there are several.
        device: torch device.
        settings: further fields of ``Distill``.

    Raises:
        InputError: if the source cannot be read, or has no such group, or several.
    """
    is_sweep = Path(source).is_file()
    sweep = (
        read_sweep(Path(source)) if is_sweep else recorded_sweep(open_release(source))
    )
    groups = group_fields(sweep)
    if group is None and len(groups) == 1:
        group = next(iter(groups))
    if group not in groups:
        told = "several groups" if group is None else f"no group {group!r}"
        raise InputError(
            f"{str(source)!r} has {told}; expected one of {', '.join(groups)}. Name it with --group."
        )
    if not is_sweep and sweep.started_from:
        raise InputError(
            f"The SAEs of {str(source)!r} start from trained SAEs already; expected those of "
            "'saereg-bench train'."
        )
    fields = groups[group]
    hook = fields.pop("hook_name", sweep.hook_name)
    own = replace(
        sweep,
        hook_name=hook,
        sae={},
        grid={},
        groups={group: fields},
        matched_to={},
        device=device,
    )
    first = None if is_sweep else str(Path(source).absolute())
    return Distill(own, first=first, **settings)
