"""Figures of the Whisper study, and the statements they decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval_recipes.statistics.seeds import paired_difference
from eval_recipes.studies.framework.verdicts import (
    Claim,
    Source,
    Verdict,
    judge,
)
from eval_recipes.studies.whisper.conditions import (
    Condition,
    Kind,
    Tuned,
    controls,
    tuned_latents,
)
from eval_recipes.studies.whisper.rates import (
    Arm,
    difference_from_draws,
    rate_difference,
    wer_difference,
)
from eval_recipes.studies.whisper.settings import GROUPS, WhisperStudy, layer_of
from eval_recipes.tables.table import digits

RATE = "hallucination rate"
WER = "word error rate"


@dataclass(frozen=True)
class Measured:
    """
    Everything that the report is about.

    Attributes:
        study: settings.
        tuned: chosen strength and number of latents, by point and group.
        figures: of every condition on held-out clips.
        saes: of every SAE, separation of the training clips and reconstruction.
    """

    study: WhisperStudy
    tuned: dict[tuple[str, str | None], Tuned]
    figures: Sequence[dict[str, Any]]
    saes: Sequence[dict[str, Any]]

    def arm(self, title: str, conditions: Sequence[Condition]) -> Arm:
        """Return the figures of conditions."""
        known = {Condition(**one["condition"]): one for one in self.figures}
        return Arm(title, tuple(known[condition] for condition in conditions))

    @property
    def plain(self) -> Arm:
        """No edit."""
        return self.arm("no edit", [Condition()])

    def difference(self, point: str) -> Arm:
        """The tuned mean difference at a point."""
        alpha = self.tuned[point, None].alpha
        condition = Condition("mean difference", point, alpha=alpha)
        return self.arm("mean difference", [condition])

    def latents(self, point: str, group: str) -> Arm:
        """The tuned latents of a group's SAEs at a point."""
        tuned = self.tuned[point, group]
        conditions = tuned_latents(self.study, point, group, tuned)
        return self.arm(f"latents, {group}", conditions)

    def control(self, kind: Kind, point: str) -> Arm:
        """Random directions, or draws of random latents, at a point."""
        tuned = self.tuned[point, GROUPS[0]]
        title = f"{kind}s" if kind == "random direction" else f"draws of {kind}"
        return self.arm(title, controls(self.study, kind, point, tuned))

    @property
    def controls(self) -> list[Arm]:
        """Random directions and random latents at the last point."""
        kinds = ("random direction", "random latents")
        return [self.control(kind, self.study.last) for kind in kinds]

    def arms(self, point: str) -> list[Arm]:
        """All tuned edits at a point, without the plain model."""
        found = [
            self.difference(point),
            *(self.latents(point, group) for group in GROUPS),
        ]
        if point == self.study.last:
            found += self.controls
        return found


def verdicts_of(measured: Measured) -> list[Verdict]:
    """Judge the statements of the paper, and ours, where the end is allowed first."""
    last = measured.study.last
    sae = measured.latents(last, GROUPS[0])
    plain = measured.plain
    found = [
        _rate_verdict(measured, sae, plain),
        _rate_verdict(measured, sae, measured.difference(last)),
        *(_draws_verdict(measured, sae, arm) for arm in measured.controls),
        _wer_verdict(measured, sae, plain),
    ]
    for earlier in measured.study.points[:-1]:
        other = measured.latents(earlier, GROUPS[0])
        title = f"{other.title}, layer {layer_of(earlier)}"
        other = dataclasses.replace(other, title=title)
        found.append(_rate_verdict(measured, sae, other))
    return [*found, _penalty_verdict(measured)]


def _rate_verdict(measured: Measured, arm: Arm, other: Arm) -> Verdict:
    """Judge a statement of the paper, at a strength and number of latents of our own."""
    claim = _lower(arm, other, "adapted")
    return judge(claim, rate_difference(arm, other, "allowed", measured.study.seed))


def _draws_verdict(measured: Measured, arm: Arm, draws: Arm) -> Verdict:
    claim = _lower(arm, draws, "ours")
    found = difference_from_draws(arm, draws, "allowed", measured.study.seed)
    return judge(claim, found)


def _lower(arm: Arm, other: Arm, source: Source) -> Claim:
    return Claim(
        figure=RATE,
        group=arm.title,
        other=other.title,
        direction="lower",
        source=source,
    )


def draws_text(measured: Measured, draws: Arm) -> str:
    """Return how many of the random draws have a higher hallucination rate, in words."""
    arm = measured.latents(measured.study.last, GROUPS[0])
    own = float(arm.hallucinated("allowed").mean())
    rates = [rate for rate, _ in draws.members("allowed")]
    higher = sum(rate > own for rate in rates)
    return (
        f"{higher} of {len(rates)} {draws.title} have a higher {RATE} than {arm.title} "
        f"({digits(own)}): {digits(min(rates))} to {digits(max(rates))}."
    )


def _wer_verdict(measured: Measured, arm: Arm, plain: Arm) -> Verdict:
    claim = Claim(
        figure=WER,
        group=arm.title,
        other=plain.title,
        direction="not_higher",
        margin=measured.study.allowed_wer,
        source="adapted",
    )
    return judge(claim, wer_difference(arm, plain, "allowed", measured.study.seed))


def _penalty_verdict(measured: Measured) -> Verdict:
    """Judge over seeds whether L2 changes the hallucination rate."""
    seeds = measured.study.seeds
    baseline, group = (measured.latents(measured.study.last, name) for name in GROUPS)
    rates = [
        dict(zip(seeds, (rate for rate, _ in arm.members("allowed")), strict=True))
        for arm in (group, baseline)
    ]
    claim = _lower(group, baseline, "ours")
    values = tuple(((seed,), rates[0][seed] - rates[1][seed]) for seed in seeds)
    return judge(claim, paired_difference(*rates), values=values)
