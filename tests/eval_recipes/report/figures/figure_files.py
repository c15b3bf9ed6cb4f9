"""Files of studies and commands, as they write them, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.distillation import comparison as distillation
from eval_recipes.pooling import comparison as pooling
from eval_recipes.revival import comparison as revival


def _row(value: float, **about: Any) -> dict[str, Any]:
    ends = {"low": value - 0.0625, "high": value + 0.0625, "n": 64}
    return {**about, "value": value, **ends}


def write_revival(path: Path, *, group: str = "l2") -> Path:
    figures = {"revived_variance_gain": 0.25, "control_variance_gain": 0.125}
    rows = [
        _row(value + (seed or 0) / 8, group=group, seed=seed, figure=figure)
        for figure, value in figures.items()
        for seed in (0, 1, None)
    ]
    frame = pd.DataFrame(rows, columns=pd.Index(revival.COLUMNS))
    verdicts = {group: f"{group}: pathological; it helps."}
    return revival.Comparison(frame, verdicts).write(path, latents=32, release="lab")


def write_pool(path: Path, *, group: str = "l2") -> Path:
    sides = [("pooled", None), ("control", None), (f"{group}-seed0", None)]
    rows = [
        _row(0.5 + n / 8, group=group, figure="explained_variance", of=of, against=to)
        for n, (of, to) in enumerate(sides)
    ]
    null = {"figure": "shared_gaussian", "of": "pooled", "against": "seeds"}
    rows.append(_row(0.4375, group=group, **null))
    pools: dict[str, Any] = {
        group: {
            "seeds": [0, 1],
            "d_sae": 8,
            "candidates": [6, 7],
            "unique": 12,
            "shared_by": [11, 1],
        }
    }
    frame = pd.DataFrame(rows, columns=pd.Index(pooling.COLUMNS))
    verdicts = {group: f"{group}: 12 unique latents."}
    return pooling.PoolComparison(frame, verdicts, pools).write(path, steps=100)


def write_distillation(path: Path) -> Path:
    kept = {"figure": "core_kept", "low": None, "high": None}
    rows = [
        _row(0.75, group="distilled-2", seed=None, figure="variance_over_matched"),
        _row(0.5, group="distilled-2", seed=None) | kept | {"null": 0.125},
        _row(0.5, group="distilled-2", seed=0, other=1) | kept,
    ]
    frame = pd.DataFrame(rows, columns=pd.Index(distillation.COLUMNS))
    return distillation.Comparison(frame, ["distilled-2 gains."]).write(path, cycles=2)


def study_content() -> dict[str, Any]:
    """What a study writes, of one group."""
    change = {"value": -0.5, "low": -0.75, "high": -0.25, "n": 32, "reason": None}
    return {
        "study": "finetune",
        "paper": "arXiv 0000.00000",
        "scale": "small",
        "about": "Tuned and not.",
        "settings": "Nothing was trained.",
        "date": "2026-01-01",
        "columns": [
            {"title": "CE gap", "eval": "behaviour", "metric": "figures/ce_gap"},
            {"title": "KL", "eval": "behaviour", "metric": "figures/kl"},
        ],
        "groups": [
            {
                "group": "l2",
                "figures": {
                    "CE gap": {
                        "value": 0.5,
                        "low": 0.25,
                        "high": 0.75,
                        "n": 2,
                        "reason": None,
                        "values": [
                            {"seed": 0, "value": 0.4375},
                            {"seed": 1, "value": 0.5625},
                        ],
                    },
                    "KL": None,
                },
            }
        ],
        "passages": [
            {
                "text": "Change by tuning:",
                "points": [],
                "heads": ["SAE", "change"],
                "rows": [["l2-seed0", change]],
            }
        ],
        "verdicts": [{"sentence": "Held here: it is lower."}],
        "summary": "Of 1 statements 1 held here.",
        "notes": ["It is short."],
    }


def write_study(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**study_content(), **changes}))
    return path


def write_layers(path: Path, **changes: Any) -> Path:
    """A file of ``layers``; the command's own test reads a real one."""
    score = {"score": 0.75, "score_low": 0.625, "score_high": 0.875, "null_95": 0.5625}
    random = {"random": 0.6875, "random_low": None, "random_high": None}
    sae = {"sae_id": "l2-seed0", "group": "l2", "seed": 0, "hook": "blocks.1.x"}
    row = {**sae, "layer": 1, "n_texts": 40, **score, **random, **changes}
    content = {"contrast": ["a.txt", "b.txt"], "saes": [row]}
    best = {"text": "l2, seed 0: blocks.1.x scores .750, the best of 1."}
    path.write_text(json.dumps({**content, "best": [best], "task_vector": []}))
    return path


def write_order(path: Path) -> Path:
    """A file of ``data``; the command's own test reads a real one."""
    of = {"target": "quality", "metric": "auroc"}
    held_out = {"value": 0.75, "low": 0.625, "high": 0.875, "n": 8, "reason": None}
    null = {"null_mean": 0.5, "null_high": 0.5625, "p_value": 0.05, "majority": 0.5}
    worse = {"value": -0.25, "low": -0.375, "high": -0.125, "n": 8, "reason": None}
    scores = [
        {**of, "features": kind, "held_out": held_out, **null}
        for kind in ("sae", "tfidf")
    ]
    content = {
        "settings": {"pool": "mean"},
        "scores": scores,
        "differences": [{**of, "features": "tfidf", "value": worse}],
        "latents": {"quality": [{"latent": 3, "coefficient": 0.5}]},
        "verdicts": ["quality: the SAE does worse than tf-idf."],
    }
    path.write_text(json.dumps(content))
    return path


def write_figures(folder: Path) -> Path:
    """Write a file of each kind into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_study(folder / "results.json")
    write_revival(folder / "revival.json")
    write_pool(folder / "pool.json")
    write_distillation(folder / "distillation.json")
    write_layers(folder / "layers.json")
    write_order(folder / "scores.json")
    return folder
