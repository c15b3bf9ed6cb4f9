"""Figures of the commands `layers` and `data`."""

from __future__ import annotations

from typing import Any

from eval_recipes.report.cells import Cell, PageTable, text
from eval_recipes.report.figures.definitions import LAYERS, TEXTS
from eval_recipes.report.figures.part import (
    Content,
    Number,
    Part,
    Value,
    count_cell,
    facts_of,
    group_cell,
    named_table,
    range_text,
    seed_cell,
    value_cell,
)


class _Layer(Content):
    sae_id: str
    group: str | None = None
    seed: Number | None = None
    hook: str
    layer: int | None = None
    n_texts: int | None = None
    score: Number | None = None
    score_low: Number | None = None
    score_high: Number | None = None
    null_95: Number | None = None
    p_value: Number | None = None
    random: Number | None = None
    random_low: Number | None = None
    random_high: Number | None = None
    over_random: Number | None = None
    over_random_low: Number | None = None
    over_random_high: Number | None = None
    probe: Number | None = None
    probe_low: Number | None = None
    probe_high: Number | None = None
    probe_null_95: Number | None = None
    over_probe: Number | None = None
    over_probe_low: Number | None = None
    over_probe_high: Number | None = None
    energy_kept: Number | None = None
    energy_law: Number | None = None
    energy_random_low: Number | None = None
    energy_random_high: Number | None = None
    energy_random_latents: Number | None = None
    energy_best: Number | None = None

    def figure(self, name: str) -> Cell:
        """Return a figure with its interval."""
        ends = (getattr(self, f"{name}_{end}") for end in ("low", "high"))
        return value_cell(getattr(self, name), *ends)


class _Best(Content):
    text: str


class _Norms(Content):
    layer: int
    parameters: int
    base_norm: Number
    task_norm: Number
    ratio: Number


class _Layers(Content):
    saes: list[_Layer]
    best: list[_Best] = []
    task_vector: list[_Norms] = []


class _Score(Content):
    target: str
    metric: str
    features: str
    held_out: Value
    null_mean: Number | None = None
    null_high: Number | None = None
    p_value: Number | None = None
    majority: Number | None = None


class _Difference(Content):
    target: str
    metric: str
    features: str
    value: Value


class _Latent(Content):
    latent: int
    coefficient: Number


class _Order(Content):
    scores: list[_Score]
    differences: list[_Difference] = []
    latents: dict[str, list[_Latent]] = {}
    verdicts: list[str] = []
    settings: dict[str, Any] = {}


def layers_part(name: str, content: Any) -> Part:
    """Return how well latents of each layer tell two sets of texts apart."""
    found = _Layers.model_validate(content)
    tables = [_layers(name, found.saes)] if found.saes else []
    if any(one.energy_kept is not None for one in found.saes):
        tables.append(_energies(name, found.saes))
    if found.task_vector:
        tables.append(_norms(name, found.task_vector))
    return Part(
        title="layers",
        summary="In which layer do latents tell two sets of texts apart, and is that more than the activations "
        "say? After arXiv 2605.28649, whose score is not public: the definitions are ours.",
        docs="docs/howto/layers.md",
        facts=facts_of(content, ()),
        sentences=[one.text for one in found.best],
        tables=tables,
        definitions=[*LAYERS.items()],
    )


def _layers(name: str, saes: list[_Layer]) -> PageTable:
    return named_table(
        f"{name}-scores",
        "layers: held-out AUROC of each SAE [95 %]",
        {
            "SAE": [text(one.sae_id) for one in saes],
            "group": [group_cell(one.group) for one in saes],
            "seed": [seed_cell(one.seed) for one in saes],
            "hook": [text(one.hook) for one in saes],
            "score": [one.figure("score") for one in saes],
            "chance": [value_cell(one.null_95) for one in saes],
            "p": [value_cell(one.p_value) for one in saes],
            "random decoder": [one.figure("random") for one in saes],
            "over random": [one.figure("over_random") for one in saes],
            "probe": [one.figure("probe") for one in saes],
            "probe's chance": [value_cell(one.probe_null_95) for one in saes],
            "over probe": [one.figure("over_probe") for one in saes],
            "texts": [count_cell(one.n_texts) for one in saes],
        },
    )


def _energies(name: str, saes: list[_Layer]) -> PageTable:
    known = [one for one in saes if one.energy_kept is not None]
    return named_table(
        f"{name}-energy",
        "layers: share of the task vector's energy that latents keep",
        {
            "SAE": [text(one.sae_id) for one in known],
            "hook": [text(one.hook) for one in known],
            "energy kept": [value_cell(one.energy_kept) for one in known],
            "k / d": [value_cell(one.energy_law) for one in known],
            "random subspaces": [
                range_text(one.energy_random_low, one.energy_random_high)
                for one in known
            ],
            "random latents": [value_cell(one.energy_random_latents) for one in known],
            "best subspace": [value_cell(one.energy_best) for one in known],
        },
    )


def _norms(name: str, norms: list[_Norms]) -> PageTable:
    return named_table(
        f"{name}-norms",
        "layers: norm of the task vector",
        {
            "layer": [count_cell(one.layer) for one in norms],
            "parameters": [count_cell(one.parameters) for one in norms],
            "|theta|": [value_cell(one.base_norm) for one in norms],
            "|tau|": [value_cell(one.task_norm) for one in norms],
            "|tau| / |theta|": [value_cell(one.ratio) for one in norms],
        },
    )


def order_part(name: str, content: Any) -> Part:
    """Return held-out scores of what texts were ordered by."""
    found = _Order.model_validate(content)
    others = {(o.target, o.metric, o.features): o.value for o in found.differences}
    scores = found.scores
    keys = [(one.target, one.metric, one.features) for one in scores]
    details: list[PageTable] = []
    latents = [(t, one) for t, all_ in found.latents.items() for one in all_]
    if latents:
        details.append(
            named_table(
                f"{name}-latents",
                "data: latents with the largest coefficients",
                {
                    "target": [text(target) for target, _ in latents],
                    "latent": [text(one.latent) for _, one in latents],
                    "coefficient": [value_cell(one.coefficient) for _, one in latents],
                },
            )
        )
    return Part(
        title="data",
        summary="Texts are ordered by what pooled latents tell of their difficulty and quality, next to what "
        "raw activations, tf-idf and the length tell. After SaeRL; its code is not public and the definitions "
        "are ours.",
        docs="docs/howto/data.md",
        facts=[*facts_of(found.settings, ()), *facts_of(content, ("verdicts",))],
        sentences=found.verdicts,
        tables=[
            named_table(
                f"{name}-scores",
                "data: held-out scores [95 %]",
                {
                    "target": [text(one.target) for one in scores],
                    "metric": [text(one.metric) for one in scores],
                    "features": [text(one.features) for one in scores],
                    "held-out": [one.held_out.cell() for one in scores],
                    "shuffled labels": [value_cell(one.null_mean) for one in scores],
                    "95 % of shuffles": [value_cell(one.null_high) for one in scores],
                    "p": [value_cell(one.p_value) for one in scores],
                    "one answer": [value_cell(one.majority) for one in scores],
                    "SAE minus this": [
                        others[key].cell() if key in others else text(None)
                        for key in keys
                    ],
                    "groups": [count_cell(one.held_out.n) for one in scores],
                },
            )
        ],
        details=details,
        definitions=[*TEXTS.items()],
    )
