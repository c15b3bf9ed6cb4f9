"""Report of the MNIST study on the finished SAEs: JSON, Markdown, pictures."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.seeds import SeedPair
from eval_recipes.studies.framework.study_folder import mark_folder, study_folder
from eval_recipes.studies.mnist.finished import KEPT_SHARES, Finished, find_finished
from eval_recipes.studies.mnist.pairs import (
    COLUMNS,
    EXTRA_COLUMNS,
    LARGER_FIRST,
    Baseline,
    Group,
    Pair,
    group_runs,
    measure_baselines,
)
from eval_recipes.studies.mnist.plots import PICTURES, draw_pictures
from eval_recipes.studies.mnist.settings import PUBLISHED, STUDY, Run, Training
from eval_recipes.studies.mnist.training import devices_of
from eval_recipes.tables.table import NONE, cell, markdown_table
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_json, write_text
from saereg_plugin.sources.inputs.mnist import IMAGES_SHA256, Images

REPORT = "report.md"
_REPORT_JSON = "report.json"
FILES = (REPORT, _REPORT_JSON, *PICTURES)
"""Files of ``write_report`` in the study's folder itself."""


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
        groups = group_runs(find_finished(runs, training, images, owned))
        if not groups:
            raise InputError(
                f"Folder {str(out)!r} has no SAE with all its {training.epochs} epochs yet, of "
                f"{len(runs)} planned. Train first: leave --report-only out."
            )
        mark_folder(out, *STUDY)
        pairs = sorted({seeds for group in groups for seeds in group.pairs})
        settings = [group.setting for group in groups]
        baselines = measure_baselines(settings, pairs, training)
        report = build_report(groups, baselines, runs, training, images)
        write_json(out / _REPORT_JSON, report)
        draw_pictures(groups, out)
        write_text(out / REPORT, to_markdown(report))
        return report


def build_report(
    groups: Sequence[Group],
    baselines: Sequence[Baseline],
    runs: Sequence[Run],
    training: Training,
    images: Images,
) -> dict[str, Any]:
    """
    Return the report as plain JSON; ``complete`` is false while any of ``runs`` is missing.

    A column's value is the mean over the pairs of seeds; each pair's own value has a 95 %
    interval over latents. With three seeds there is no interval over pairs.
    """
    done = {one.run for group in groups for one in group.members}
    missing = [run.name for run in runs if run not in done]
    return {
        "study": "mnist, arXiv 2603.04198",
        "complete": not missing,
        "finished_runs": len(done),
        "planned_runs": len(runs),
        "missing_runs": missing,
        "training": asdict(training),
        "images": {
            "n": len(images.pixels),
            "sha256": images.sha256,
            "is_mnist": images.sha256 == IMAGES_SHA256,
        },
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
        },
        "kept_shares": KEPT_SHARES,
        "settings": [_setting(group) for group in groups],
        "baselines": [
            {"name": one.name, "label": one.label, **_compared(one.pairs)}
            for one in baselines
        ],
    }


def _setting(group: Group) -> dict[str, Any]:
    published = PUBLISHED.get(group.setting.name)
    return {
        **asdict(group.setting),
        "label": group.setting.label,
        "seeds": [one.run.seed for one in group.members],
        "published": None if published is None else published._asdict(),
        **_compared(group.pairs),
        "saes": [_sae(one) for one in group.members],
    }


def _compared(pairs: Mapping[SeedPair, Pair]) -> dict[str, Any]:
    """Return what pairs of SAEs say: columns, and how exact the matchings are."""

    def column(values: Mapping[SeedPair, dict[str, Any]]) -> dict[str, Any]:
        numbers = [value["value"] for value in values.values()]
        return {
            "mean": fmean(numbers) if numbers else None,
            "pairs": [{"seeds": list(s), **value} for s, value in values.items()],
        }

    return {
        "figures": {
            name: column(
                {
                    seeds: _figure(pair.figures[name])
                    for seeds, pair in pairs.items()
                    if name in pair.figures
                }
            )
            for name in (*COLUMNS, *EXTRA_COLUMNS)
        },
        "as_published": {
            name: column(
                {
                    seeds: {"value": pair.as_published[name]}
                    for seeds, pair in pairs.items()
                    if name in pair.as_published
                }
            )
            for name in (*COLUMNS, LARGER_FIRST)
        },
        "matching_gaps": [
            {"seeds": list(seeds), **pair.gaps} for seeds, pair in pairs.items()
        ],
    }


def _figure(found: Interval) -> dict[str, Any]:
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n_latents": found.n,
    }


def _sae(one: Finished) -> dict[str, Any]:
    devices = devices_of(one.history)
    return {
        "name": one.run.name,
        "seed": one.run.seed,
        **one.evaluation._asdict(),
        "seconds": sum(epoch["seconds"] for epoch in one.history),
        "cpu_seconds": sum(epoch["cpu_seconds"] for epoch in one.history),
        **({} if devices == ["cpu"] else {"devices": devices}),
        "mse_by_epoch": [epoch["mse"] for epoch in one.history],
        "density_by_epoch": [epoch["density"] for epoch in one.history],
    }


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
_SAE_COLUMNS = {
    "seed": ("seed", "{}"),
    "mse": ("MSE", "{:.5f}"),
    "variance_explained": ("variance explained", "{:.4f}"),
    "density": ("density", "{:.4f}"),
    "firing": ("latents that fire", "{}"),
    "alive": ("alive by cosine", "{}"),
    "dead": ("dead", "{}"),
}


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return the tables of a report: next to the published one, by pair, by SAE."""
    parts = [
        _status(report),
        _beside_published(report, "figures"),
        "The same SAEs measured as the public notebook does: 1e-8 added to norms, so that a "
        "vanishing vector is like nothing, and partners of alive latents compared by position. "
        "That miscounts pairs whose first SAE has more alive latents; the last column has "
        "the larger SAE first in every pair:",
        _beside_published(report, "as_published", LARGER_FIRST),
        "Each pair, with its 95 % interval over latents, and the most that the total similarity "
        "of any of its matchings can be below the optimum (0: proven optimal):",
        _pairs(report),
        _saes(report),
        "MSE when only a share of the latents is kept: those of largest encoder-decoder "
        "cosine by size, as many drawn at random, or all but the former (mean over seeds "
        "and draws):",
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
    return said + _elsewhere(report)


def _elsewhere(report: Mapping[str, Any]) -> str:
    """Return a sentence on SAEs that were not trained on the CPU alone."""
    saes = [sae for setting in report["settings"] for sae in setting["saes"]]
    named = [
        f"{sae['name']} ({', '.join(sae['devices'])})"
        for sae in saes
        if "devices" in sae
    ]
    if not named:
        return ""
    return (
        f" Not trained on the CPU alone, so that digits differ from those of a CPU: "
        f"{', '.join(named)}."
    )


def _beside_published(report: Mapping[str, Any], measured: str, *extra: str) -> str:
    rows: list[list[str]] = []
    for setting in _settings(report):
        published = setting.get("published") or {}
        row = [setting["label"], str(len(setting["figures"]["shared"]["pairs"]))]
        for name in COLUMNS:
            row.append(_show(name, setting[measured][name]["mean"]))
            row.append(_show(name, published.get(name)))
        rows.append([*row, *(_show(n, setting[measured][n]["mean"]) for n in extra)])
    heads = ["setting", "pairs"]
    for name in COLUMNS:
        heads += [_TITLES[name], "published"]
    return markdown_table([*heads, *(_TITLES[name] for name in extra)], rows)


def _pairs(report: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    for setting in _settings(report):
        by_seeds = {
            name: {
                tuple(pair["seeds"]): Interval(
                    pair["value"], pair["low"], pair["high"], pair["n_latents"]
                )
                for pair in setting["figures"][name]["pairs"]
            }
            for name in _PAIR_TITLES
        }
        for gaps in setting["matching_gaps"]:
            seeds = tuple(gaps["seeds"])
            cells = [
                cell(by_seeds[name].get(seeds), partial(_show, name))
                for name in _PAIR_TITLES
            ]
            gap = max(value for name, value in gaps.items() if name != "seeds")
            named = [setting["label"], f"{seeds[0]}, {seeds[1]}"]
            rows.append([*named, *cells, f"{gap:.1e}" if gap else "0"])
    heads = ["setting", "seeds", *_PAIR_TITLES.values(), "matching gap"]
    return markdown_table(heads, rows)


def _settings(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the settings, and below them what untrained SAEs of the same shape give."""
    return [*report["settings"], *report["baselines"]]


def _saes(report: Mapping[str, Any]) -> str:
    rows = [
        [
            setting["label"],
            *(form.format(sae[name]) for name, (_, form) in _SAE_COLUMNS.items()),
            f"{sae['seconds'] / 60:.0f}",
            f"{sae['cpu_seconds'] / 60:.0f}",
        ]
        for setting in report["settings"]
        for sae in setting["saes"]
    ]
    heads = [title for title, _ in _SAE_COLUMNS.values()]
    return markdown_table(["setting", *heads, "minutes", "processor minutes"], rows)


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
    shares = [f"{share:.0%}" for share in report["kept_shares"]]
    return markdown_table(["setting", "kept", *shares], rows)


def _show(name: str, value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.4f}" if name.startswith("mean") else f"{value:.2%}"
