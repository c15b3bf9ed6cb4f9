"""Pictures of cross-seed results, drawn from the result files alone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from eval_recipes.results.tidy import penalty
from eval_recipes.tables.colours import colour_of, folder_colours, group_colours
from eval_recipes.tables.plots import Picture, label_text
from eval_recipes.width_control.result_groups import ResultGroup, read_groups

_DASHES = ("--", ":", "-.", (0, (1, 4)), (0, (8, 4)))

_SHARED = {"shared": "all latents", "shared_alive": "alive latents"}


def plot_encoder_decoder_cosine(results: str | Path) -> Picture:
    """
    Draw the histogram of encoder-decoder cosines, by group, its SAEs together.

    ``results`` is a folder with cross-seed results. Nothing is written. Grey, dashed or
    dotted, here and in the other plots: random dictionaries, one line for each shape of SAE.

    Raises:
        InputError: if there is no such result (``read_groups``).
    """
    folder = Path(results)
    return _cosines(read_groups(folder), folder_colours(folder))


def plot_matched_similarity(results: str | Path) -> Picture:
    """Draw the absolute cosine of matched latents, by decoder and by encoder."""
    folder = Path(results)
    return _similarities(read_groups(folder), folder_colours(folder))


def plot_shared_fraction(results: str | Path) -> Picture:
    """
    Draw shared latents against k and against the penalty's coefficient.

    A dot for each pair of seeds, a line through the means of groups of one width that differ
    in nothing else.
    """
    return _shared(read_groups(Path(results)))


def plot_unstable_overlap(results: str | Path) -> Picture:
    """Draw the overlap of unstable subspaces against their rank."""
    folder = Path(results)
    return _overlaps(read_groups(folder), folder_colours(folder))


def draw_cross_seed(results: Path) -> dict[str, Picture]:
    """
    Return the four plots of the cross-seed results below ``results``, by file name.

    Raises:
        InputError: if there is no such result (``read_groups``).
    """
    groups, colours = read_groups(results), folder_colours(results)
    return {
        "encoder_decoder_cosine.png": _cosines(groups, colours),
        "matched_similarity.png": _similarities(groups, colours),
        "shared_fraction.png": _shared(groups),
        "unstable_overlap.png": _overlaps(groups, colours),
    }


Colours = Mapping[tuple[str, str], str]
"""Colour of each SAE's group, as ``folder_colours`` returns them."""


def _colours(groups: Sequence[ResultGroup], known: Colours | None) -> dict[str, str]:
    """Return a colour per group: that of its first SAE, or by the names of these groups."""
    if known is None:
        return group_colours(group.role.name for group in groups)
    firsts = {group.role.name: group.records[0] for group in groups}
    return {name: colour_of(known, record) for name, record in firsts.items()}


def _extras(group: ResultGroup) -> list[dict[str, Any]]:
    return [record["eval_result_unstructured"] for record in group.records]


def _stairs(axes: Axes, histograms: Sequence[dict[str, Any]], **style: Any) -> None:
    """Draw the density of histograms over the same bins, added up."""
    counts = np.sum([found["counts"] for found in histograms], axis=0).astype(float)
    edges = np.linspace(histograms[0]["low"], histograms[0]["high"], len(counts) + 1)
    axes.stairs(counts / (max(counts.sum(), 1.0) * np.diff(edges)), edges, **style)


def _d_in(group: ResultGroup) -> int:
    return int(group.records[0]["sae_cfg_dict"]["d_in"])


def _baselines(
    groups: Sequence[ResultGroup],
) -> list[tuple[Any, str, ResultGroup]]:
    """
    Return for each shape of SAE a line style, a label, and a group that has its baseline.

    Random dictionaries of another width reach other cosines.
    """
    by_shape = {(g.role.d_sae, _d_in(g)): g for g in groups}
    return [
        (
            _DASHES[index % len(_DASHES)],
            f"random, {d_sae} x {d_in}",
            by_shape[d_sae, d_in],
        )
        for index, (d_sae, d_in) in enumerate(sorted(by_shape))
    ]


def _dress(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)


def _cosines(groups: Sequence[ResultGroup], colours: Colours | None = None) -> Picture:
    figure = Picture(figsize=(6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    _histograms(
        axes, groups, colours, lambda of: of["encoder_decoder_cosine_histogram"]
    )
    _dress(axes, "cosine of encoder and decoder vector", "density of latents")
    axes.legend(fontsize="small")
    return figure


def _similarities(
    groups: Sequence[ResultGroup], colours: Colours | None = None
) -> Picture:
    figure = Picture(figsize=(12, 4.2), layout="constrained")
    for number, side in enumerate(("decoder", "encoder")):
        axes = figure.add_subplot(1, 2, number + 1)
        _histograms(
            axes,
            groups,
            colours,
            lambda of, side=side: of["matched_similarity_histogram"][side],
        )
        _dress(axes, f"|cosine| of matched latents, {side}", "density of matched pairs")
    figure.axes[0].legend(fontsize="small")
    return figure


def _histograms(
    axes: Axes,
    groups: Sequence[ResultGroup],
    known: Colours | None,
    pick: Callable[[Any], dict[str, Any]],
) -> None:
    """Draw what ``pick`` takes of each SAE's extras, by group, and of random dictionaries."""
    colours = _colours(groups, known)
    for group in groups:
        name = group.role.name
        found = [*map(pick, _extras(group))]
        _stairs(axes, found, color=colours[name], label=label_text(name))
    for style, label, group in _baselines(groups):
        found = pick(_extras(group)[0]["baseline_histograms"])
        _stairs(axes, [found], color="grey", linestyle=style, label=label)


def _shared(groups: Sequence[ResultGroup]) -> Picture:
    figure = Picture(figsize=(12, 8.4), layout="constrained")
    for row, (metric, words) in enumerate(_SHARED.items()):
        axes = figure.add_subplot(2, 2, 2 * row + 1)
        by_penalty: dict[str, list[tuple[float, ResultGroup]]] = defaultdict(list)
        for group in groups:
            if group.role.k is not None:
                by_penalty[_penalty(group)].append((float(group.role.k), group))
        _lines(axes, by_penalty, metric)
        _dress(axes, "k", f"shared, {words}")
        axes = figure.add_subplot(2, 2, 2 * row + 2)
        by_k = _families(groups)
        _lines(axes, by_k, metric)
        positive = [c for found in by_k.values() for c, _ in found if c > 0]
        if positive:
            # logarithmic, with a place for 0
            axes.set_xscale("symlog", linthresh=min(positive))
            axes.set_xlim(-min(positive) / 3, max(positive) * 1.5)
        _dress(axes, "coefficient of the penalty", f"shared, {words}")
    return figure


def _penalty(group: ResultGroup) -> str:
    name = penalty(group.records[0]["sae_cfg_dict"]) or "unknown"
    matched = ", matched width" if group.role.matched_to else ""
    return f"{name}{matched}, {group.role.d_sae} latents"


def _families(
    groups: Sequence[ResultGroup],
) -> dict[str, list[tuple[float, ResultGroup]]]:
    """Return groups that differ in the coefficient only; an unregularised group joins all."""
    families: dict[str, list[tuple[float, ResultGroup]]] = defaultdict(list)
    for group in groups:
        role = group.role
        if role.coefficient is None or role.matched_to is not None:
            continue
        k = "no k" if role.k is None else f"k = {role.k}"
        kinds = {
            _norm(other.role.penalty)
            for other in groups
            if (other.role.base, other.role.d_sae) == (role.base, role.d_sae)
            and (not role.coefficient or other.role.penalty == role.penalty)
            and other.role.coefficient
        }
        alone = "weight decay" if role.decays_only else "no penalty"
        for kind in sorted(kinds) or [alone]:
            label = f"{kind}, {k}, {role.d_sae} latents"
            families[label].append((role.coefficient, group))
    return families


def _norm(penalty: str | None) -> str:
    item = json.loads(penalty or "{}")
    return str(item.get("norm") or item.get("name"))


def _lines(
    axes: Axes, lines: dict[str, list[tuple[float, ResultGroup]]], metric: str
) -> None:
    colours = group_colours(lines)
    for label, found in sorted(lines.items()):
        colour = colours[label]
        means: list[tuple[float, float]] = []
        for x, group in sorted(found, key=lambda item: item[0]):
            values = [
                v for pair in group.pairs.values() if (v := pair[metric]) is not None
            ]
            axes.plot([x] * len(values), values, "o", color=colour, alpha=0.5)
            if values:
                means.append((x, sum(values) / len(values)))
        if means:
            axes.plot(*zip(*means), "-", color=colour, label=label_text(label))
    shown = [group for found in lines.values() for _, group in found]
    for style, label, group in _baselines(shown):
        value = group.records[0]["eval_result_metrics"]["baseline"][metric]
        if value is not None:
            axes.axhline(value, color="grey", linestyle=style, label=label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _overlaps(groups: Sequence[ResultGroup], colours: Colours | None = None) -> Picture:
    figure = Picture(figsize=(6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    chances = [
        group.records[0]["eval_result_details"][0]["unstable_overlap"]
        for group in groups
    ]
    of_groups = _colours(groups, colours)
    for group, chance in zip(groups, chances):
        label = label_text(group.role.name)
        for number, pair in enumerate(group.pairs.values()):
            curve = zip(chance["ranks"], pair["unstable_overlap"])
            defined = [(rank, value) for rank, value in curve if value is not None]
            style: dict[str, Any] = {"color": of_groups[group.role.name], "alpha": 0.7}
            if defined:
                axes.plot(*zip(*defined), "-", label=None if number else label, **style)
        # results of earlier code lack it
        null = zip(chance["ranks"], chance.get("gaussian", ()))
        drawn = [(rank, value) for rank, value in null if value is not None]
        if drawn:
            axes.plot(*zip(*drawn), ":", color=of_groups[group.role.name])
    by_width = {_d_in(group): c for group, c in reversed([*zip(groups, chances)])}
    for index, d_in in enumerate(sorted(by_width)):
        axes.plot(
            by_width[d_in]["ranks"],
            by_width[d_in]["random"],
            linestyle=_DASHES[index % len(_DASHES)],
            color="grey",
            label=f"random, d_in {d_in}",
        )
    axes.set_xscale("log", base=2)
    _dress(axes, "rank r", "overlap of unstable subspaces")
    axes.legend(fontsize="small")
    return figure
