"""Tables about latents next to results, written without any model."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from eval_recipes.attribution.table import COLUMNS as COLUMNS_OF_SCORES
from eval_recipes.attribution.table import SCORES
from eval_recipes.cross_seed.stability import STABILITY
from eval_recipes.examples.reader import EXAMPLES, INPUTS
from eval_recipes.mdl.table import BALANCE
from eval_recipes.mdl.table import COLUMNS as COLUMNS_OF_BALANCE
from eval_recipes.results.sidecar import SideTable, side_path
from eval_recipes.results.subject import Subject
from eval_recipes.steering.texts import COLUMNS, TEXTS
from saereg_plugin.files import sha256
from tests.eval_recipes.report.result_files import (
    RELEASE,
    SEEDS,
    record,
    result_path,
    write,
)

N = 40
"""Latents of each SAE."""


def subject(group: str, seed: int) -> Subject:
    return Subject(RELEASE, f"{group}-seed{seed}", group, seed)


def started(folder: Path, evaluation: str, group: str, seed: int) -> dict[str, Any]:
    """The result that is there already, or one without metrics."""
    one = record(evaluation, group, seed, {})
    path = result_path(folder, one)
    return json.loads(path.read_text()) if path.is_file() else one


def write_with(
    folder: Path,
    side: SideTable,
    group: str,
    seed: int,
    columns: dict[str, Any],
    config: dict[str, Any] | None = None,
    n: int = N,
    **about: Any,
) -> Path:
    """Write a result, and the table that it names, of one SAE of ``n`` latents."""
    one = started(folder, side.eval, group, seed)
    one["eval_config"] |= config or {}
    one["sae_cfg_dict"]["d_sae"] = n
    path = write(folder, one)
    table = side_path(path, side.ending)
    pq.write_table(side.of(columns, subject(group, seed), **about), table)
    named = {
        "file": table.name,
        "rows": len(next(iter(columns.values()))),
        "sha256": sha256(table),
    }
    one["eval_result_unstructured"][side.field] = named
    return write(folder, one)


def partner(latent: int, seed: int, other: int, n: int = N) -> int:
    """The match of a latent in another seed: that many further on."""
    return (latent + other - seed) % n


def level(latent: int) -> int:
    """Number of other seeds that share a latent: few latents come back in all."""
    return 2 if latent % 8 == 0 else 1 if latent % 4 == 0 else 0


def write_stability(folder: Path, group: str, seed: int, *, n: int = N) -> Path:
    others = [one for one in SEEDS if one != seed]
    columns: dict[str, Any] = {
        "latent": list(range(n)),
        "alive": [latent != 1 for latent in range(n)],
        "stability": np.float32([level(latent) / 2 for latent in range(n)]),
        "firing_rate": [0.0 if latent == 1 else 0.125 for latent in range(n)],
        "surface_form": [None if latent == 1 else 0.75 for latent in range(n)],
        "surface_form_chance": [
            None if latent == 1 else 0.03125 for latent in range(n)
        ],
        "stability_tenth": [1 + latent % 10 for latent in range(n)],
    }
    for size in (1, 2, 4, 8):
        for kind, share in (("nearest", 0.06), ("gaussian", 0.03), ("random", 0.01)):
            # only latents that no other seed shares have a span
            columns[f"span_{kind}_{size}"] = [
                None if level(latent) else share * size for latent in range(n)
            ]
    for index, other in enumerate(others):
        matches = [partner(latent, seed, other, n) for latent in range(n)]
        columns |= {
            f"decoder_partner_{other}": [*matches[:-1], None],
            f"encoder_partner_{other}": [*matches[:-1], None],
            # as the evaluation writes them
            f"decoder_similarity_{other}": np.linspace(0.1, 0.9, n, dtype=np.float32),
            f"encoder_similarity_{other}": np.full(n, 0.5, dtype=np.float32),
            f"shared_{other}": [level(latent) > index for latent in range(n)],
        }
    return write_with(
        folder,
        STABILITY,
        group,
        seed,
        columns,
        n=n,
        other_seeds=others,
        other_sae_ids=[f"{group}-seed{other}" for other in others],
    )


def write_balance(folder: Path, group: str, seed: int) -> Path:
    """A table of ``mdl``: latent 2 never fires, latent 3 does not pay for its code."""
    columns: dict[str, Any] = {name: np.zeros(N) for name in COLUMNS_OF_BALANCE}
    columns["fires"] = np.array([0 if latent == 2 else 31 for latent in range(N)])
    columns["cost"] = np.array([0.0 if latent == 2 else 0.25 for latent in range(N)])
    columns["net"] = np.where(np.arange(N) == 3, -0.125, columns["cost"])
    return write_with(folder, BALANCE, group, seed, columns)


def write_scores(folder: Path, group: str, seed: int) -> Path:
    """A table of ``attribution``: latent 2 never fires, latent 3 lowers no loss."""
    columns: dict[str, Any] = {name: np.zeros(N) for name in COLUMNS_OF_SCORES}
    columns["fires"] = np.array([0 if latent == 2 else 31 for latent in range(N)])
    columns["score"] = np.array([0.0 if latent == 2 else 0.25 for latent in range(N)])
    columns["effect"] = np.where(np.arange(N) == 3, -0.125, columns["score"])
    return write_with(folder, SCORES, group, seed, columns)


def example(
    band: str, peak: float, *, words: Sequence[str] = (" word",), first: int = 0
) -> dict[str, Any]:
    tokens = [words[(first + index) % len(words)] for index in range(24)]
    values = [0.0] * 15 + [peak] + [peak / 3] * 8
    return {
        "band": band,
        "activation": peak,
        "peak": 15,
        "tokens": tokens,
        "values": values,
        "context": 3,
        "position": 40,
    }


def examples_of(latent: int, words: Sequence[str]) -> list[dict[str, Any]]:
    """Ten of the largest activations, and three of each lower interval."""
    largest = [
        example("top", 9 - k / 10, words=words, first=24 * (10 * latent + k))
        for k in range(10)
    ]
    bands = ("75-100 %", "50-75 %", "25-50 %", "0-25 %")
    lower = [
        example(band, 3 - 0.123456 * index)
        for index, band in enumerate(bands)
        for _ in range(3)
    ]
    return [*largest, *lower]


def write_examples(
    folder: Path,
    group: str,
    seed: int,
    *,
    words: Sequence[str] = (" word",),
    dead: int = 2,
    n: int = N,
    latents: Collection[int] | None = None,
) -> Path:
    """Write what latents fire on, by default all but ``dead``; ``words`` are the tokens."""
    active = [0 if latent == dead else 10 * latent + 1 for latent in range(n)]
    has = [bool(active[k]) and (latents is None or k in latents) for k in range(n)]
    size = range(n)
    columns = {
        "latent": list(size),
        "active": active,
        "density": [count / 4096 for count in active],
        "mean_activation": [1.23456 if count else None for count in active],
        "max_activation": [9.0 if count else None for count in active],
        "histogram_edges": [[0.0, 4.5, 9.0] if count else [] for count in active],
        "histogram_counts": [[count, 0] if count else [] for count in active],
        "top_tokens": [[*words[:20], "b"] for _ in size],
        "top_logits": [[0.98765] * len(words[:20]) + [0.5] for _ in size],
        "bottom_tokens": [["c"] for _ in size],
        "bottom_logits": [[-0.25] for _ in size],
        "examples": [examples_of(k, words) if has[k] else [] for k in size],
    }
    about: dict[str, Any] = {
        "kind": "text",
        "corpus": "embedded",
        "tokens": 4096,
        "context_size": 128,
    }
    return write_with(folder, EXAMPLES, group, seed, columns, n=n, **about)


def picture(number: int) -> bytes:
    """A PNG of one colour."""
    content = io.BytesIO()
    Image.new("RGB", (40, 30), (40 * number % 256, 90, 160)).save(content, "PNG")
    return content.getvalue()


def input_example(band: str, peak: float, number: int, rows: int) -> dict[str, Any]:
    values = [0.0] * rows
    values[0], values[rows - 2] = peak / 4, peak
    return {
        "band": band,
        "activation": peak,
        "peak": rows - 2,
        "tokens": [],
        "values": values,
        "context": number,
        "position": rows - 2,
    }


def write_input_examples(
    folder: Path, group: str, seed: int, *, kind: str = "images", title: str = "photo"
) -> Path:
    """Write examples on ten images of 3 x 3 patches, or on ten clips of 9 frames."""
    bands = ["top"] * 5 + ["75-100 %", "50-75 %", "25-50 %", "0-25 %", "lowest"]
    each = [input_example(b, 9.0 - i, i, 9) for i, b in enumerate(bands)]
    columns: dict[str, Any] = {
        "latent": list(range(N)),
        "active": [0] + [20] * (N - 1),
        "density": [0.0] + [20 / 90] * (N - 1),
        "mean_activation": [None] + [2.0] * (N - 1),
        "max_activation": [None] + [9.0] * (N - 1),
        "histogram_edges": [[]] + [[0.0, 4.5, 9.0]] * (N - 1),
        "histogram_counts": [[]] + [[15, 5]] * (N - 1),
        **{f"{end}_tokens": [[""][:0]] * N for end in ("top", "bottom")},
        **{f"{end}_logits": [[0.0][:0]] * N for end in ("top", "bottom")},
        "examples": [[]] + [each] * (N - 1),
    }
    is_image = kind == "images"
    about: dict[str, Any] = {
        "kind": kind,
        "corpus": "photos",
        "tokens": 90,
        "context_size": 9,
        "grid": [3, 3] if is_image else None,
    }
    write_with(folder, EXAMPLES, group, seed, columns, **about)
    numbers = range(len(bands))
    inputs = {
        "input": list(numbers),
        "title": [f"{title} {n}" for n in numbers],
        "label": ["red" if n % 2 else None for n in numbers],
        "rows": [9] * len(bands),
        "seconds": [None if is_image else 1.8 for _ in numbers],
        "picture": [picture(n) if is_image else None for n in numbers],
    }
    return write_with(folder, INPUTS, group, seed, inputs, kind=kind)


def write_texts(
    folder: Path,
    group: str,
    seed: int,
    latents: list[int],
    *,
    more: str = "",
    n: int = N,
) -> Path:
    """
    Write texts of each latent at two amounts, with four prompts, by one judge.

    Prompts and texts end with ``more``.
    """
    rows = [
        {
            **dict.fromkeys(COLUMNS),
            "latent": latent,
            "explanation": f"concept {latent}",
            "interp_score": 0.75,
            "arm": arm,
            "amount": amount if arm in ("steered", "random") else None,
            "prompt": f"prompt {prompt}{more}",
            "repeat": 0,
            "original": " as it is",
            "text": f" {arm} at {amount:g}{more}",
            "original_perplexity": 10.0,
            "perplexity": 12.3456,
            "embedding_score": 0.4321,
            "embedding_success": arm == "steered" and prompt < 2,
            "embedding_status": "judged",
            "embedding_reason": None,
        }
        for latent in latents
        for amount in (5.0, 9.0)
        for arm in ("steered", "random", "unsteered", "calibration")
        for prompt in range(4)
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    config = {"amounts": [5.0, 9.0], "strength_mode": "fixed"}
    judges = ["embedding"]
    return write_with(folder, TEXTS, group, seed, columns, config, n=n, judges=judges)


def write_explanations(
    folder: Path,
    group: str,
    seed: int,
    latents: list[int],
    *,
    text: str = "words",
    n: int = N,
) -> Path:
    one = started(folder, "autointerp", group, seed)
    one["sae_cfg_dict"]["d_sae"] = n
    one["eval_result_details"] = [
        {"latent": k, "explanation": text, "score": None, "checked_score": 0.857142}
        for k in latents
    ]
    return write(folder, one)
