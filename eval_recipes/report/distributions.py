"""Distributions over latents: plots, and tables of their numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval_recipes.death.table import DEATHS
from eval_recipes.report.cells import Column, PageTable, figure, number, table, text
from eval_recipes.report.source import Source, extra_of, mapping, numbers
from eval_recipes.statistics.interval import Interval
from saereg_plugin.errors import InputError

RANDOM = "random dictionaries"
GREY = "#7a7a7a"
"""Colour of chance in plots."""

_MOST_POINTS = 2_000
"""Most latents of one SAE in a scatter plot."""


@dataclass(frozen=True)
class Plot:
    """A plot for the script, and what is read without it."""

    name: str
    title: str
    sentence: str
    facts: dict[str, Any]
    table: PageTable


def read_distributions(source: Source) -> list[Plot]:
    """Return the plots that the results hold data for."""
    makers = (
        _stability,
        _matched_decoder,
        _matched_encoder,
        _cosines,
        _stability_score,
        _deaths,
    )
    return [plot for make in makers for plot in [make(source)] if plot is not None]


def _series(
    source: Source, group: str | None, x: Sequence[Any], y: Sequence[Any], **more: Any
) -> dict[str, Any]:
    colour = GREY if group is None else source.colours[group]
    name = RANDOM if group is None else group
    return {
        "name": name,
        "group": group,
        "colour": colour,
        "x": [*x],
        "y": [*y],
        **more,
    }


def _stability(source: Source) -> Plot | None:
    """Return the share of latents by the number of other seeds that share them."""
    counts: dict[str, dict[int, int]] = {}
    others: dict[str, int] = {}
    for sae, _, record in source.results("cross_seed"):
        extra = extra_of(record)
        seeds = numbers(extra.get("seeds"))
        values = numbers(extra.get("stability_by_latent"))
        if not seeds or not values:
            continue
        others[sae.group] = len(seeds) - 1
        found = counts.setdefault(sae.group, defaultdict(int))
        for value in values:
            found[round(value * (len(seeds) - 1))] += 1
    if not counts:
        return None
    most = max(others.values())
    shares = {
        group: [found.get(k, 0) / sum(found.values()) for k in range(others[group] + 1)]
        for group, found in counts.items()
    }
    rows = [
        [
            number(k),
            *(
                number(shares[g][k], note=f"{counts[g].get(k, 0)} latents")
                if k < len(shares[g])
                else text(None)
                for g in shares
            ),
        ]
        for k in range(most + 1)
    ]
    heads = [Column("other seeds"), *(Column(g, group=g) for g in shares)]
    title = "Stability: in how many other seeds a latent comes back"
    return Plot(
        name="stability",
        title=title,
        sentence="Share of latents, of all SAEs of a group, by the number of other seeds in which "
        "decoder and encoder match the same latent above the shared threshold.",
        facts={
            "kind": "bar",
            "x_title": "other seeds that share the latent",
            "y_title": "share of latents",
            "series": [
                _series(source, group, range(len(share)), share)
                for group, share in shares.items()
            ],
        },
        table=table("stability-table", title, heads, rows),
    )


def _deaths(source: Source) -> Plot | None:
    """Return the share of latents by cause and pathway of death."""
    counts: dict[str, Counter[str]] = {}
    sizes: dict[str, int] = defaultdict(int)
    for sae, path, _ in source.results("death"):
        try:
            table_of = DEATHS.read(path)
        except InputError:
            # the browser of latents names the table
            continue
        dead = table_of.loc[table_of["pathway"].notna()]
        found = counts.setdefault(sae.group, Counter())
        found.update(f"{c}, by {p}" for c, p in zip(dead["cause"], dead["pathway"]))
        sizes[sae.group] += len(table_of)
    if not counts:
        return None
    causes = sorted({cause for found in counts.values() for cause in found})
    rows = [
        [
            text(cause),
            *(
                number(counts[g][cause] / sizes[g], note=f"{counts[g][cause]} latents")
                for g in counts
            ),
        ]
        for cause in causes
    ]
    title = "Death: latents that never fire, by cause and pathway"
    return Plot(
        name="deaths",
        title=title,
        sentence="Share of latents, of all SAEs of a group. Never fired or fired then died: in "
        "training. By ReLU: no pre-activation above 0 on held-out inputs; by selection: above 0 and "
        "never selected.",
        facts={
            "kind": "bar",
            "x_title": "cause and pathway",
            "y_title": "share of latents",
            "series": [
                _series(
                    source,
                    group,
                    causes,
                    [found[cause] / sizes[group] for cause in causes],
                )
                for group, found in counts.items()
            ],
        },
        table=table(
            "deaths-table",
            title,
            [Column("cause"), *(Column(g, group=g) for g in counts)],
            rows,
        ),
    )


def _matched_decoder(source: Source) -> Plot | None:
    return _matched(source, "decoder")


def _matched_encoder(source: Source) -> Plot | None:
    return _matched(source, "encoder")


def _matched(source: Source, side: str) -> Plot | None:
    def pick(of: dict[str, Any]) -> Any:
        return mapping(of.get("matched_similarity_histogram")).get(side)

    return _histogram(
        source,
        pick,
        name=f"matched-{side}",
        title=f"|cosine| of matched latents, {side}, against chance",
        sentence="Each latent and its partner in the best one-to-one matching with each other "
        "seed. Random dictionaries of the same shape show what the matching finds in noise.",
        x_title=f"|cosine| of matched {side} vectors",
    )


def _cosines(source: Source) -> Plot | None:
    return _histogram(
        source,
        lambda of: of.get("encoder_decoder_cosine_histogram"),
        name="encoder-decoder",
        title="Cosine of a latent's encoder and decoder vector",
        sentence="Latents that training never used stay near chance.",
        x_title="cosine",
    )


def _histogram(
    source: Source, pick: Any, *, name: str, title: str, sentence: str, x_title: str
) -> Plot | None:
    """Return shares by bin of each group, its SAEs together, and of random dictionaries."""
    shares, edges = _shares(source, pick)
    if not any(group is not None for group in shares):
        return None
    bins = range(len(edges) - 1)
    rows = [
        [
            text(f"{edges[i]:.3f} to {edges[i + 1]:.3f}"),
            *(number(share[i]) for share in shares.values()),
        ]
        for i in bins
        if any(share[i] > 0 for share in shares.values())
    ]
    heads = [Column("from, to")]
    heads += [Column(RANDOM if g is None else g, group=g) for g in shares]
    middles = [round((edges[i] + edges[i + 1]) / 2, 6) for i in bins]
    return Plot(
        name=name,
        title=title,
        sentence=sentence,
        facts={
            "kind": "line",
            "x_title": x_title,
            "y_title": "share of latents",
            "series": [
                _series(source, group, middles, share, dash=group is None)
                for group, share in shares.items()
            ],
        },
        table=table(f"{name}-table", title, heads, rows),
    )


def _shares(
    source: Source, pick: Any
) -> tuple[dict[str | None, list[float]], list[float]]:
    """Return shares by group, None for random dictionaries, and the edges of the bins."""
    sums: dict[str | None, Any] = {}
    bins: tuple[list[float], int] | None = None
    for sae, _, record in source.results("cross_seed"):
        extra = extra_of(record)
        chance = pick(mapping(extra.get("baseline_histograms")))
        for group, found in ((sae.group, pick(extra)), (None, chance)):
            counts, ends = _counts(found)
            if counts and ends:
                bins = bins or (ends, len(counts))
                # bins of one kind can be added up
                if bins == (ends, len(counts)):
                    sums[group] = sums.get(group, 0) + np.array(counts)
    if bins is None:
        return {}, []
    (low, high), count = bins
    shares: dict[str | None, list[float]] = {
        group: _rounded(sums[group] / max(sums[group].sum(), 1.0))
        for group in (*source.groups, None)
        if group in sums
    }
    return shares, np.linspace(low, high, count + 1).tolist()


def _counts(found: Any) -> tuple[list[float] | None, list[float] | None]:
    """Return counts and both ends of a histogram of a result, None where it is none."""
    ends = numbers([mapping(found).get(end) for end in ("low", "high")])
    return (None if ends is None else numbers(mapping(found).get("counts"))), ends


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 6) for value in values]


def _scores(source: Source) -> Iterator[tuple[str, str, int, float]]:
    """Yield SAE, group, latent and interp score of each latent that autointerp scored."""
    for sae, _, record in source.results("autointerp"):
        for detail in record.get("eval_result_details") or ():
            if not isinstance(detail, dict):
                continue
            score = detail.get("score")
            score = detail.get("checked_score") if score is None else score
            latent = detail.get("latent")
            if isinstance(latent, int) and isinstance(score, (int, float)):
                yield sae.label, sae.group, latent, float(score)


def _stability_score(source: Source) -> Plot | None:
    """Return interp scores by stability, for latents that have both."""
    stability = {
        sae.label: numbers(extra_of(record).get("stability_by_latent"))
        for sae, _, record in source.results("cross_seed")
    }
    points: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for label, group, latent, score in _scores(source):
        known = stability.get(label)
        if known is not None and 0 <= latent < len(known):
            points[group].append((known[latent], score, f"{label}/{latent}"))
    if not points:
        return None
    title = "Interp score by stability"
    rows = [
        [text(group, group=group), number(level), number(len(scores)), _mean(scores)]
        for group in sorted(points)
        for level, scores in sorted(_by_level(points[group]).items())
    ]
    return Plot(
        name="stability-score",
        title=title,
        sentence="Each dot is a latent that autointerp scored; stability is the share of other "
        "seeds that share it.",
        facts={
            "kind": "points",
            "x_title": "stability",
            "y_title": "interp score",
            "series": [
                _series(
                    source,
                    group,
                    *zip(*((x, y) for x, y, _ in points[group][:_MOST_POINTS])),
                    text=[name for _, _, name in points[group][:_MOST_POINTS]],
                )
                for group in sorted(points)
            ],
        },
        table=table(
            "stability-score-table",
            f"{title}: mean over the latents at each stability",
            ["group", "stability", "latents", "interp score"],
            rows,
        ),
    )


def _by_level(points: Sequence[tuple[float, float, str]]) -> dict[float, list[float]]:
    found: dict[float, list[float]] = defaultdict(list)
    for level, score, _ in points:
        found[level].append(score)
    return found


def _mean(scores: Sequence[float]) -> Any:
    return figure(Interval(float(np.mean(scores)), None, None, len(scores)))
