"""Scores of layers: latents, raw probes and random decoders side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from sae_lens import SAE
from sae_lens.util import extract_layer_from_tlens_hook_name

from eval_recipes.layers.activations import Read, place_of_text, read_texts
from eval_recipes.layers.scores import (
    Score,
    TextHalves,
    p_value,
    score_latents,
    score_probe,
    split_texts,
)
from eval_recipes.layers.task_energy import TaskEnergy, task_energy
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.select.separation import Sides
from eval_recipes.statistics.auroc import auroc, excess_auroc
from eval_recipes.statistics.interval import Array, Interval
from eval_recipes.steering.select.contrast import TextSets
from saereg_plugin.checks import MAX_SEED, require_choice, require_count
from saereg_plugin.errors import InputError
from saereg_plugin.sources.task_vectors import TaskVector

NO_CONTROL = "the architecture has no random control"
_MOST_LATENTS = 1 << 27
_MOST_PERMUTATIONS = 100_000
PAPER_SHARE = 0.03
"""Share of the dimensions that the paper's projection may have had: it lost 97 %."""


@dataclass(frozen=True)
class LatentRow:
    """One latent that a half chose, measured on the other half."""

    latent: int
    half: int
    sign: int
    measured: Interval
    share_first: float
    share_second: float


@dataclass(frozen=True)
class LayerScore:
    """
    Scores of one SAE and its layer.

    Attributes:
        subject: the SAE.
        hook: where it reads.
        layer: number of the layer; None for a hook outside the layers.
        latents: of the SAE.
        random: of its random control; None if the architecture has none.
        probe: of the raw activations.
        l0: latents that fire on a token.
        random_l0: the same of the control.
        rows: the chosen latents of both halves.
        energy: of the task vector in the latents' directions; None without one.
    """

    subject: Subject
    hook: str
    layer: int | None
    latents: Score
    random: Score | None
    probe: Score
    l0: float
    random_l0: float | None
    rows: tuple[LatentRow, ...]
    energy: TaskEnergy | None = None

    @property
    def group(self) -> str:
        """The SAE's group, without the hook that a sweep over several hooks adds to it."""
        return str(self.subject.group).removesuffix(f"-{self.hook}")

    @property
    def series(self) -> tuple[str, str, int | None]:
        """Release, group and seed, which the SAEs of several layers share."""
        return self.subject.release, self.group, self.subject.seed

    @property
    def over_random(self) -> Interval:
        """The latents' score minus the random control's, paired by text."""
        if self.random is None:
            return Interval(float("nan"), None, None, self.latents.n, NO_CONTROL)
        return self.latents.minus(self.random)

    @property
    def over_probe(self) -> Interval:
        """The latents' score minus the probe's, paired by text."""
        return self.latents.minus(self.probe)


@dataclass(frozen=True)
class Best:
    """
    The highest score of the SAEs of one group and seed.

    Attributes:
        found: the SAE.
        lead: its score minus the next best's, paired by text; None if it is the only one.
        p_value: chance that the best of these SAEs scores as high if labels mean nothing.
        layers: number of SAEs compared.
    """

    found: LayerScore
    lead: Interval | None
    p_value: float | None
    layers: int


def measure_layers(
    context: RunContext,
    texts: TextSets,
    *,
    n_latents: int = 10,
    sides: Sides = "first",
    permutations: int = 100,
    seed: int = 0,
    task: TaskVector | None = None,
    span_latents: int = 0,
) -> list[LayerScore]:
    """
    Score the layers of a context's SAEs by how well their latents tell two sets of texts apart.

    Args:
        context: the run, with the SAEs as its subjects.
        texts: ``a`` are those with the target property.
        n_latents: latents of which the score is the mean.
        sides: ``first`` counts latents that fire more on ``a``, ``both`` those of either direction.
        permutations: of the labels; 0 for none.
        seed: of the halves, the permutations and the random controls.
        task: adds the energy of its layers in the latents' directions.
        span_latents: latents whose directions span the projection; 0 for 3 % of d_in.

    Returns:
        one score per SAE, by layer, in the order of the subjects.

    Raises:
        InputError: for options out of range, or an SAE that reads no language model.
    """
    require_count("n_latents", n_latents, most=_MOST_LATENTS)
    require_choice("sides", sides, get_args(Sides))
    require_count("permutations", permutations, least=0, most=_MOST_PERMUTATIONS)
    require_count("seed", seed, least=0, most=MAX_SEED)
    require_count("span_latents", span_latents, least=0, most=_MOST_LATENTS)
    parts = split_texts(
        len(texts.a), len(texts.b), permutations=permutations, seed=seed
    )
    by_model: dict[Any, dict[str, SAE[Any]]] = defaultdict(dict)
    named: dict[str, Subject] = {}
    for subject in context.subjects:
        name = f"{subject.release}/{subject.sae_id}"
        sae = subject.load_flat(context.device)
        _require_latents(name, sae, max(n_latents, span_latents))
        source = place_of_text(sae)
        key = source.model_name, source.model_kwargs, source.prepend_bos
        by_model[key][name], named[name] = sae, subject
    found: list[LayerScore] = []
    for saes in by_model.values():
        read = read_texts(context, saes, texts.a, texts.b, seed=seed)
        probes: dict[str, Score] = {}
        for name, sae in saes.items():
            hook = str(sae.cfg.metadata.hook_name)
            if hook not in probes:
                probes[hook] = score_probe(read[name].pooled, parts)
            found.append(
                _scored(
                    *(named[name], sae, read.pop(name), probes[hook], parts),
                    n_latents=n_latents,
                    sides=sides,
                    energy=_energy(task, span_latents, seed),
                )
            )
    place = {one: number for number, one in enumerate(named.values())}
    last = float("inf")
    return sorted(
        found,
        key=lambda one: (last if one.layer is None else one.layer, place[one.subject]),
    )


def _require_latents(name: str, sae: SAE[Any], least: int) -> None:
    if sae.cfg.d_sae < least:
        raise InputError(
            f"SAE {name!r} has {sae.cfg.d_sae} latents, but {least} are asked for. Ask for fewer, "
            "or leave this SAE out."
        )


def _energy(task: TaskVector | None, span_latents: int, seed: int) -> Any:
    """Return a function of layer, SAE and ranked latents that gives the task's energy."""

    def measured(layer: int | None, sae: SAE[Any], ranked: Any) -> TaskEnergy | None:
        if task is None or layer not in task.layers:
            return None
        count = span_latents or max(1, round(PAPER_SHARE * sae.cfg.d_in))
        return task_energy(task, layer, sae.W_dec, ranked[:count], seed=seed)

    return measured


def _scored(
    subject: Subject,
    sae: SAE[Any],
    read: Read,
    probe: Score,
    parts: TextHalves,
    *,
    n_latents: int,
    sides: Sides,
    energy: Any,
) -> LayerScore:
    """Return the scores of one SAE."""
    hook = str(sae.cfg.metadata.hook_name)
    layer = extract_layer_from_tlens_hook_name(hook)
    own = score_latents(read.shares, parts, n_latents=n_latents, sides=sides)
    random = None
    if read.random is not None:
        random = score_latents(read.random, parts, n_latents=n_latents, sides=sides)
    n_first = parts[0].n_first + parts[1].n_first
    labels = np.arange(len(read.shares)) < n_first
    overall = excess_auroc(read.shares, labels[None])[0]
    strength = np.abs(overall) if sides == "both" else overall
    return LayerScore(
        subject=subject,
        hook=hook,
        layer=layer,
        latents=own,
        random=random,
        probe=probe,
        l0=read.l0,
        random_l0=read.random_l0,
        rows=_rows(own, read.shares, parts),
        energy=energy(layer, sae, np.argsort(-strength, kind="stable")),
    )


def _rows(score: Score, shares: Array, parts: TextHalves) -> tuple[LatentRow, ...]:
    """Return the chosen latents with their AUROC on the half that did not choose them."""
    rows: list[LatentRow] = []
    for number, half in enumerate(parts[::-1]):
        values = shares[half.texts]
        for latent, sign in zip(score.chosen[number], score.signs[number], strict=True):
            a, b = values[: half.n_first, latent], values[half.n_first :, latent]
            measured = auroc(a, b)
            means = float(a.mean()), float(b.mean())
            rows.append(LatentRow(int(latent), number, int(sign), measured, *means))
    return tuple(rows)


def best_layers(scores: Sequence[LayerScore]) -> list[Best]:
    """Return the highest score of each group and seed, the highest of all first."""
    series: dict[tuple[Any, ...], list[LayerScore]] = defaultdict(list)
    for one in scores:
        series[one.series].append(one)
    found: list[Best] = []
    for members in series.values():
        order = sorted(
            members, key=lambda one: one.latents.interval.value, reverse=True
        )
        best = order[0]
        # all share the permutations, so the best of them is compared with the best of each
        null = np.max([one.latents.null for one in members], axis=0)
        found.append(
            Best(
                found=best,
                lead=best.latents.minus(order[1].latents) if order[1:] else None,
                p_value=p_value(best.latents.interval.value, null),
                layers=len(members),
            )
        )
    return sorted(found, key=lambda one: one.found.latents.interval.value, reverse=True)
