"""Files, table and plot of scored layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from eval_recipes.layers.measurement import Best, LayerScore, best_layers
from eval_recipes.statistics.interval import Interval
from eval_recipes.steering.select.contrast import TextSets, identity
from eval_recipes.tables.colours import group_colours
from eval_recipes.tables.plots import label_text, save_png
from eval_recipes.tables.table import digits, interval_words
from saereg_plugin.files import atomic_path, write_json, write_text
from saereg_plugin.owned_folder import open_owned
from saereg_plugin.sources.task_vectors import LayerNorms

KIND = "layers"
"""Kind of the folder in its mark."""
RESULT, TABLE, LATENTS, PICTURE = (
    *("layers.json", "layers.csv"),
    *("latents.parquet", "layers.png"),
)
FILES = (RESULT, TABLE, LATENTS, PICTURE)


def layers_frame(scores: Sequence[LayerScore]) -> pd.DataFrame:
    """Return one row per SAE: scores with ends of intervals, nulls, and the task's energy."""
    return pd.DataFrame([_row(one) for one in scores])


def _row(one: LayerScore) -> dict[str, Any]:
    row: dict[str, Any] = {
        "release": one.subject.release,
        "sae_id": one.subject.sae_id,
        "group": one.group,
        "seed": one.subject.seed,
        "hook": one.hook,
        "layer": one.layer,
        "n_texts": one.latents.n,
    }
    row |= _figure("score", one.latents.interval)
    row |= {"null_95": one.latents.null_95, "p_value": one.latents.p_value}
    random = None if one.random is None else one.random.interval
    row |= _figure("random", random)
    row |= _figure("over_random", None if random is None else one.over_random)
    row |= _figure("probe", one.probe.interval)
    row |= {"probe_null_95": one.probe.null_95}
    row |= _figure("over_probe", one.over_probe)
    row |= {"l0": one.l0, "random_l0": one.random_l0}
    energy = one.energy
    if energy is not None:
        low, high = energy.random_subspaces
        row |= {
            "span_latents": energy.latents,
            "span_rank": energy.rank,
            "energy_kept": energy.kept,
            "energy_written": energy.written,
            "energy_read": energy.read,
            "energy_law": energy.law,
            "energy_random_low": low,
            "energy_random_high": high,
            "energy_random_latents": energy.random_latents,
            "energy_best": energy.best,
        }
    return row


def _figure(name: str, figure: Interval | None) -> dict[str, Any]:
    if figure is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}


def latents_frame(scores: Sequence[LayerScore]) -> pd.DataFrame:
    """Return one row per chosen latent and the half that chose it, measured on the other."""
    rows: list[dict[str, Any]] = []
    for one in scores:
        subject = one.subject
        for latent in one.rows:
            rows.append(
                {
                    "release": subject.release,
                    "sae_id": subject.sae_id,
                    "hook": one.hook,
                    "layer": one.layer,
                    "latent": latent.latent,
                    "half": latent.half,
                    "sign": latent.sign,
                    **_figure("auroc", latent.measured),
                    "share_first": latent.share_first,
                    "share_second": latent.share_second,
                }
            )
    return pd.DataFrame(rows)


def best_line(best: Best) -> str:
    """Return a sentence about the best layer of a group and seed."""
    one = best.found
    figure = one.latents.interval
    text = (
        f"{one.group}, seed {one.subject.seed}: {one.hook} scores {digits(figure.value)} "
        f"({interval_words(figure)}), the best of {best.layers}"
    )
    if best.p_value is not None:
        text += f" (p = {digits(best.p_value)}, corrected for the choice)"
    if best.lead is not None:
        lead = best.lead
        text += f"; ahead of the next by {digits(lead.value)} ({interval_words(lead)})"
    return f"{text}."


def layers_about(
    paths: Sequence[str],
    texts: TextSets,
    models: Sequence[str] | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what decided a result: files of texts with hashes, models, and options."""
    return {
        "contrast": list(paths),
        "sha256": identity(paths),
        "n_first": len(texts.a),
        "n_second": len(texts.b),
        "models": None if models is None else list(models),
        **settings,
    }


def write_layers(
    folder: Path,
    scores: Sequence[LayerScore],
    *,
    norms: Sequence[LayerNorms] = (),
    about: Mapping[str, Any],
) -> Path:
    """
    Write the result as JSON, its tables as CSV and parquet, and a plot; return the JSON's path.

    ``about`` is what decided the result; it goes into the JSON.

    Raises:
        InputError: if the folder holds something else.
    """
    open_owned(folder, KIND).claim(FILES)
    frame, latents = layers_frame(scores), latents_frame(scores)
    write_text(folder / TABLE, frame.to_csv(index=False))
    with atomic_path(folder / LATENTS) as temporary:
        latents.to_parquet(temporary, index=False)
    save_png(draw_layers(scores), folder / PICTURE)
    record = {
        **about,
        "saes": _records(frame),
        "best": [
            {
                "release": one.found.subject.release,
                "sae_id": one.found.subject.sae_id,
                "hook": one.found.hook,
                "layer": one.found.layer,
                "p_value": one.p_value,
                **_figure("lead", one.lead),
                "compared": one.layers,
                "text": best_line(one),
            }
            for one in best_layers(scores)
        ],
        "task_vector": [one.to_json() for one in norms],
    }
    write_json(folder / RESULT, record)
    return folder / RESULT


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as plain JSON, with null for what is missing."""
    rows = frame.astype(object).where(frame.notna(), None)
    return [
        {str(key): value for key, value in row.items()}
        for row in rows.to_dict("records")
    ]


def draw_layers(scores: Sequence[LayerScore]) -> Figure:
    """Draw scores against the layer: a line per group and seed, its random control dashed."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    colours = group_colours(one.group for one in scores)
    lines: dict[tuple[Any, ...], list[LayerScore]] = {}
    for one in scores:
        if one.layer is not None:
            lines.setdefault(one.series, []).append(one)
    named: set[str] = set()
    for (_, group, _), members in lines.items():
        at = [float(one.layer or 0) for one in members]
        label = None if group in named else label_text(str(group))
        named.add(group)
        values = [one.latents.interval for one in members]
        bars = [
            [0.0 if v.low is None else v.value - v.low for v in values],
            [0.0 if v.high is None else v.high - v.value for v in values],
        ]
        colour = colours[group]
        axes.errorbar(
            at,
            [v.value for v in values],
            yerr=bars,
            fmt="o-",
            color=colour,
            label=label,
        )
        dashed = [(m.layer, m.random.interval.value) for m in members if m.random]
        axes.plot(
            *zip(*dashed, strict=True) if dashed else ((), ()), "--", color=colour
        )
    probes = {
        one.layer: one.probe.interval.value for one in scores if one.layer is not None
    }
    axes.plot(
        [*probes], [*probes.values()], ":", color="#999999", label="raw linear probe"
    )
    axes.plot([], [], "--", color="#999999", label="random decoder")
    axes.axhline(0.5, color="#999999", linewidth=0.8)
    axes.set_xlabel("layer")
    axes.set_ylabel("held-out AUROC")
    axes.legend(fontsize="small")
    return figure
