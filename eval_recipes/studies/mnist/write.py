"""Write the report of what is finished: JSON, Markdown and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from eval_recipes.studies.framework.study_folder import mark_folder, study_folder
from eval_recipes.studies.mnist.finished import find_finished
from eval_recipes.studies.mnist.images import Images
from eval_recipes.studies.mnist.pairs import COLUMNS, LARGER_FIRST
from eval_recipes.studies.mnist.plots import (
    draw_cosine_histograms,
    draw_kept,
    draw_shared_latents,
)
from eval_recipes.studies.mnist.report import (
    build_report,
    group_baselines,
    group_runs,
)
from eval_recipes.studies.mnist.settings import STUDY, Run, Training
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_json, write_text
from saereg_plugin.owned_folder import OwnedFolder

REPORT = "report.md"
_REPORT_JSON = "report.json"
_COSINES, _SHARED, _KEPT = (
    f"{name}.png"
    for name in ("encoder-decoder-cosines", "shared-latents", "kept-latents")
)
FILES = (REPORT, _REPORT_JSON, _COSINES, _SHARED, _KEPT)
"""What ``write_report`` writes into the study's folder itself."""


def write_report(
    runs: Sequence[Run], training: Training, images: Images, out: Path
) -> dict[str, Any]:
    """
    Write ``report.json``, ``report.md`` and the pictures into ``out``; return the report.

    Raises:
        InputError: if no run is finished, one is of other settings, or the folder holds the
            user's files or is used by another process.
    """
    with study_folder(out, *STUDY, files=FILES) as owned:
        return _write(runs, training, images, owned)


def _write(
    runs: Sequence[Run], training: Training, images: Images, owned: OwnedFolder
) -> dict[str, Any]:
    out = owned.path
    groups = group_runs(find_finished(runs, training, images, owned))
    if not groups:
        raise InputError(
            f"Folder {str(out)!r} has no SAE with all its {training.epochs} epochs yet, of "
            f"{len(runs)} planned. Train first: leave --report-only out."
        )
    mark_folder(out, *STUDY)
    baselines = group_baselines(groups, training)
    report = build_report(groups, baselines, runs, training, images)
    write_json(out / _REPORT_JSON, report)
    draw_cosine_histograms(groups, out / _COSINES)
    draw_shared_latents(groups, out / _SHARED)
    draw_kept(groups, out / _KEPT)
    write_text(out / REPORT, to_markdown(report))
    return report


_TITLES = {
    "mean_max_cos": "mean max cos",
    "paired": "paired",
    "shared": "shared of all",
    "shared_alive": "shared of alive",
    LARGER_FIRST: "of alive, larger first",
}
_PAIR_TITLES = {
    **{name: _TITLES[name] for name in COLUMNS},
    "mean_max_cos_decoder": "of decoders",
    "mean_max_cos_encoder": "of encoders",
}
_NONE = "-"


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return the tables of a report: beside the published one, pair by pair, SAE by SAE."""
    parts = [
        _status(report),
        _beside_published(report, "figures"),
        "The same SAEs measured as the public notebook does: 1e-8 added to norms, so that a "
        "vanishing vector is like nothing, and partners of alive latents compared by position. "
        "That miscounts pairs whose first SAE has more alive latents; the last column has "
        "the larger SAE first in every pair:",
        _beside_published(report, "as_published", LARGER_FIRST),
        _pairs(report),
        _saes(report),
        _kept(report),
    ]
    return "\n\n".join(parts) + "\n"


def _status(report: Mapping[str, Any]) -> str:
    training, images = report["training"], report["images"]
    said = (
        f"{report['finished_runs']} of {report['planned_runs']} SAEs, {training['epochs']} epochs "
        f"on {images['n']} images, d_sae {training['d_sae']}, data order {training['data_order']}."
    )
    if not report["complete"]:
        said = (
            f"**Partial report.** {said} Missing: {', '.join(report['missing_runs'])}."
        )
    if not images["is_mnist"]:
        said += " The images are not MNIST's 60,000 training images."
    return said


def _beside_published(report: Mapping[str, Any], measured: str, *extra: str) -> str:
    rows: list[list[str]] = []
    for setting in _compared(report):
        published = setting.get("published")
        row = [setting["label"], str(len(setting["figures"]["shared"]["pairs"]))]
        for name in COLUMNS:
            row.append(_show(name, setting[measured][name]["mean"]))
            row.append(_show(name, None if published is None else published[name]))
        rows.append([*row, *(_show(n, setting[measured][n]["mean"]) for n in extra)])
    heads = ["setting", "pairs"]
    for name in COLUMNS:
        heads += [_TITLES[name], "published"]
    return _table([*heads, *(_TITLES[name] for name in extra)], rows)


def _pairs(report: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    for setting in _compared(report):
        figures = setting["figures"]
        gaps = {tuple(pair["seeds"]): pair for pair in setting["matching_gaps"]}
        by_seeds = {
            name: {tuple(pair["seeds"]): pair for pair in figures[name]["pairs"]}
            for name in _PAIR_TITLES
        }
        for seeds in by_seeds["shared"]:
            cells = [
                _with_interval(name, by_seeds[name].get(seeds)) for name in _PAIR_TITLES
            ]
            gap = max(gaps[seeds][name] for name in gaps[seeds] if name != "seeds")
            named = [setting["label"], f"{seeds[0]}, {seeds[1]}"]
            rows.append([*named, *cells, f"{gap:.1e}" if gap else "0"])
    heads = ["setting", "seeds", *_PAIR_TITLES.values(), "matching gap"]
    return (
        "Each pair, with its 95 % interval over latents, and the most that the total similarity "
        "of any of its matchings can be below the optimum (0: proven optimal):\n\n"
        + _table(heads, rows)
    )


def _compared(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the settings, and below them what untrained SAEs of the same shape give."""
    return [*report["settings"], *report["baselines"]]


def _saes(report: Mapping[str, Any]) -> str:
    rows = [
        [
            setting["label"],
            str(sae["seed"]),
            f"{sae['mse']:.5f}",
            f"{sae['variance_explained']:.4f}",
            f"{sae['density']:.4f}",
            str(sae["firing"]),
            str(sae["alive"]),
            str(sae["dead"]),
            f"{sae['seconds'] / 60:.0f}",
            f"{sae['cpu_seconds'] / 60:.0f}",
        ]
        for setting in report["settings"]
        for sae in setting["saes"]
    ]
    heads = [
        "setting",
        "seed",
        "MSE",
        "variance explained",
        "density",
        "latents that fire",
    ]
    heads += ["alive by cosine", "dead", "minutes", "processor minutes"]
    return _table(heads, rows)


def _kept(report: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    for setting in report["settings"]:
        saes = setting["saes"]
        draws = [draw for sae in saes for draw in sae["random_mse"]]
        for kept, curves in (
            ("most aligned", [sae["kept_mse"] for sae in saes]),
            (f"at random ({len(draws)} draws)", draws),
            ("all but the most aligned", [sae["without_mse"] for sae in saes]),
        ):
            means = [f"{fmean(values):.5f}" for values in zip(*curves, strict=True)]
            rows.append([setting["label"], kept, *means])
    heads = ["setting", "kept", *(f"{share:.0%}" for share in report["kept_shares"])]
    return (
        "MSE when only a share of the latents is kept: those of largest encoder-decoder "
        "cosine by size, as many drawn at random, or all but the former (mean over seeds "
        "and draws):\n\n" + _table(heads, rows)
    )


def _with_interval(name: str, figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return _NONE
    value = _show(name, figure["value"])
    if figure["low"] is None or figure["high"] is None:
        return value
    return f"{value} [{_show(name, figure['low'])}, {_show(name, figure['high'])}]"


def _show(name: str, value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:.4f}" if name.startswith("mean") else f"{value:.2%}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
