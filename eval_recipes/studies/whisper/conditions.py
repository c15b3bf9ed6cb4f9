"""Ways to edit Whisper's encoder: none, mean difference, latents, random controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.select.inputs import select_latents
from eval_recipes.select.separation import Selection
from eval_recipes.studies.whisper.settings import GROUPS, WhisperStudy
from eval_recipes.studies.whisper.states import States
from saereg_plugin.activations.edits.changes import AddDirection, AddLatents, Edit
from saereg_plugin.activations.edits.magnitudes import (
    mean_difference,
    typical_magnitudes,
)

Kind = Literal[
    "none", "mean difference", "latents", "random direction", "random latents"
]


@dataclass(frozen=True)
class Condition:
    """
    One way to edit.

    Attributes:
        kind: what is added to every frame.
        point: layer of the encoder.
        group: of the SAE, or of the SAE whose edit a random control equals in norm.
        seed: of that SAE.
        alpha: strength; the latents' typical magnitudes or the mean difference times this.
        count: number of latents.
        draw: number of a random control.
    """

    kind: Kind = "none"
    point: str = ""
    group: str = ""
    seed: int = 0
    alpha: float = 0.0
    count: int = 0
    draw: int = 0

    @property
    def name(self) -> str:
        """A name that files can have."""
        parts = [
            self.kind.replace(" ", "-"),
            self.point.rpartition(".")[2] and f"layer{self.point.rpartition('.')[2]}",
            self.group and f"{self.group}-seed{self.seed}",
            self.alpha and f"alpha{self.alpha:g}",
            self.count and f"n{self.count}",
            f"draw{self.draw}" if self.kind.startswith("random") else "",
        ]
        return "_".join(str(part) for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)


NONE = Condition()


@dataclass(frozen=True)
class Tuned:
    """
    Chosen strength and number of latents.

    Attributes:
        alpha: strength.
        count: number of latents; 0 for the mean difference.
        rate: hallucination rate on the tuning clips.
        wer: word error rate on the tuning prompts.
        most_wer: word error rate that was allowed there.
        tried: strengths that were tried with this number of latents.
    """

    alpha: float
    count: int
    rate: float
    wer: float
    most_wer: float
    tried: tuple[float, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether any setting kept the word error rate, so that this one does."""
        return self.wer <= self.most_wer

    @property
    def stronger(self) -> list[float]:
        """The strengths tried from the chosen one up."""
        return [alpha for alpha in self.tried if alpha >= self.alpha]


def families(
    study: WhisperStudy, point: str, group: str | None, counts: Sequence[int]
) -> list[list[Condition]]:
    """
    Return the settings to tune, a list of ascending strengths per number of latents.

    They are those of a group's first SAE; without a group, of the mean difference.
    """
    if group is None:
        return [[Condition("mean difference", point, alpha=a) for a in study.alphas]]
    return [
        [
            Condition("latents", point, group, study.seeds[0], alpha, count)
            for alpha in study.alphas
        ]
        for count in counts
    ]


def heldout_conditions(
    study: WhisperStudy, tuned: dict[tuple[str, str | None], Tuned]
) -> list[Condition]:
    """
    Return what is measured on held-out clips, each once; ``tuned`` is by point and group.

    At every point: the tuned mean difference and the tuned latents of every SAE. At the last
    point also random controls, and of the first seed other strengths and numbers of latents.
    """
    found: dict[Condition, None] = {NONE: None}
    for point in reversed(study.points):
        found |= dict.fromkeys(_tuned_conditions(study, point, tuned))
    found |= dict.fromkeys(_curves(study, tuned))
    return list(found)


def tuned_latents(
    study: WhisperStudy, point: str, group: str, tuned: Tuned
) -> list[Condition]:
    """Return the tuned condition of each seed of a group."""
    return [
        Condition("latents", point, group, seed, tuned.alpha, tuned.count)
        for seed in study.seeds
    ]


def controls(
    study: WhisperStudy, kind: Kind, point: str, tuned: Tuned
) -> list[Condition]:
    """Return random controls of the norm of the tuned edits of SAEs without a penalty."""
    seeds = study.seeds
    return [
        Condition(
            kind,
            point,
            GROUPS[0],
            seeds[draw % len(seeds)],
            tuned.alpha,
            tuned.count,
            draw,
        )
        for draw in range(study.draws)
    ]


def _tuned_conditions(
    study: WhisperStudy, point: str, tuned: dict[tuple[str, str | None], Tuned]
) -> Iterator[Condition]:
    yield Condition("mean difference", point, alpha=tuned[point, None].alpha)
    for group in GROUPS:
        yield from tuned_latents(study, point, group, tuned[point, group])
    if point == study.last:
        for kind in ("random direction", "random latents"):
            yield from controls(study, kind, point, tuned[point, GROUPS[0]])


def _curves(
    study: WhisperStudy, tuned: dict[tuple[str, str | None], Tuned]
) -> Iterator[Condition]:
    """Yield other strengths and numbers of latents at the last point."""
    for _, conditions in curves(study, tuned):
        yield from conditions
    best = tuned[study.last, GROUPS[0]]
    plain = tuned_latents(study, study.last, GROUPS[0], best)[0]
    yield from (replace(plain, count=count) for count in study.counts)


def curves(
    study: WhisperStudy, tuned: dict[tuple[str, str | None], Tuned]
) -> list[tuple[str, list[Condition]]]:
    """
    Return title and conditions of each edit at the last point, over strengths.

    They are those that were tried, from the tuned one up.
    """
    point, best = study.last, tuned[study.last, GROUPS[0]]
    difference = Condition("mean difference", point)
    latents = tuned_latents(study, point, GROUPS[0], best)[0]
    random = controls(study, "random direction", point, best)[0]
    tried = (
        (difference, tuned[point, None].stronger),
        *((condition, best.stronger) for condition in (latents, random)),
    )
    return [
        (condition.kind, [replace(condition, alpha=alpha) for alpha in alphas])
        for condition, alphas in tried
    ]


class Edits:
    """
    Edits of conditions, from the training clips' states.

    Args:
        study: settings.
        noise: states of training clips without speech.
        speech: states of training prompts.
        load: returns the SAE of a point, group and seed.
    """

    def __init__(
        self,
        study: WhisperStudy,
        noise: States,
        speech: States,
        load: Callable[[str, str, int], SAE[Any]],
    ) -> None:
        self._study, self._noise, self._speech, self._load = study, noise, speech, load
        self._sae: dict[tuple[str, str, int], _Known] = {}
        self._difference: dict[str, Tensor] = {}

    def of(self, condition: Condition) -> Edit | None:
        """Return the edit of a condition; None for no edit."""
        if condition.kind == "none":
            return None
        if condition.kind == "mean difference":
            return AddDirection(self._towards_speech(condition.point), condition.alpha)
        if condition.kind == "latents":
            return self._latents(condition)
        return self._random(condition)

    def selection(self, point: str, group: str, seed: int) -> Selection:
        """Return the latents that separate the training clips, strongest first."""
        return self._known(point, group, seed).selection

    def sae(self, point: str, group: str, seed: int) -> SAE[Any]:
        """Return an SAE."""
        return self._known(point, group, seed).sae

    def norm(self, condition: Condition) -> float:
        """Return the length of what a condition adds to a frame."""
        change = self.of(condition)
        if change is None:
            return 0.0
        return float(change.shift(torch.zeros(1, 1, change.d_in)).norm())

    def _towards_speech(self, point: str) -> Tensor:
        """Return the mean frame of speech minus that of other sound."""
        if point not in self._difference:
            sides = [
                (one.rows(point) for one in states.passes(point))
                for states in (self._speech, self._noise)
            ]
            self._difference[point] = mean_difference(*sides)
        return self._difference[point]

    def _latents(self, condition: Condition) -> AddLatents:
        """Move the chosen latents away from where they are on clips without speech."""
        known = self._known(condition.point, condition.group, condition.seed)
        chosen = known.selection.latents[: condition.count]
        return AddLatents(
            known.sae,
            [one.latent for one in chosen],
            known.typical,
            [-condition.alpha * one.sign for one in chosen],
        )

    def _random(self, condition: Condition) -> AddDirection:
        """Return a random direction, or random latents, as long as the chosen latents' edit."""
        length = self.norm(replace(condition, kind="latents", draw=0))
        known = self._known(condition.point, condition.group, condition.seed)
        generator = torch.Generator().manual_seed(
            1000 * self._study.seed + condition.draw
        )
        if condition.kind == "random direction":
            vector = torch.randn(known.sae.cfg.d_in, generator=generator)
        else:
            alive = known.typical.nonzero()[:, 0]
            drawn = alive[torch.randperm(len(alive), generator=generator)]
            ids = drawn[: condition.count].tolist()
            signs = (torch.rand(len(ids), generator=generator) < 0.5).float() * 2 - 1
            change = AddLatents(known.sae, ids, known.typical, signs.tolist())
            vector = change.shift(torch.zeros(1, 1, change.d_in)).flatten()
        return AddDirection(vector.detach() * (length / float(vector.norm())), 1.0)

    def _known(self, point: str, group: str, seed: int) -> _Known:
        key = (point, group, seed)
        if key not in self._sae:
            self._sae[key] = self._study_sae(self._load(*key), point)
        return self._sae[key]

    def _study_sae(self, sae: SAE[Any], point: str) -> _Known:
        """Choose an SAE's latents and measure their magnitudes on the training clips."""
        sides = (self._noise, self._speech)
        selection = select_latents(
            sae,
            *(states.passes(point) for states in sides),
            point=point,
            method="logistic",
            n=max(self._study.counts),
            permutations=0,
            seed=self._study.seed,
        )
        rows = (one.rows(point) for states in sides for one in states.passes(point))
        return _Known(sae, selection, typical_magnitudes(sae, rows))


@dataclass(frozen=True)
class _Known:
    """An SAE, its separating latents, and typical magnitudes (d_sae,)."""

    sae: SAE[Any]
    selection: Selection
    typical: Tensor


def best_setting(
    tried: Sequence[tuple[Condition, float, float]], *, most_wer: float
) -> Tuned:
    """
    Return the setting with the fewest hallucinations whose word error rate is allowed.

    Of equal ones the weakest counts. If none is allowed, it is the one of the lowest word error
    rate. ``tried``: condition, hallucination rate, word error rate.
    """
    allowed = [one for one in tried if one[2] <= most_wer]
    if allowed:
        best = min(allowed, key=lambda one: (one[1], one[0].alpha, one[0].count))
    else:
        best = min(tried, key=lambda one: (one[2], one[1]))
    chosen = best[0]
    strengths = {one.alpha for one, _, _ in tried if one.count == chosen.count}
    return Tuned(
        chosen.alpha,
        chosen.count,
        rate=best[1],
        wer=best[2],
        most_wer=most_wer,
        tried=tuple(sorted(strengths)),
    )
