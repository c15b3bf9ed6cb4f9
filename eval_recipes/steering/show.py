"""The texts of one latent, for people."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.results.files import read_result
from eval_recipes.steering.judges.protocol import CALIBRATED
from eval_recipes.steering.stats.compare import steering_results
from eval_recipes.steering.texts import judges_of, read_texts, results_of
from saereg_plugin.errors import InputError, suggest

_TITLES = {
    "steered": "steered",
    "random": "random direction",
    "unsteered": "other random numbers",
}


def steering_result(results: Path, sae_id: str | None) -> Path:
    """
    Return the steering result of one SAE below a folder; without a name, the only result.

    Raises:
        InputError: if there is none, or several fit.
    """
    found = [
        (path, str(record["sae_lens_id"])) for path, record in steering_results(results)
    ]
    names = list(dict.fromkeys(name for _, name in found))
    if sae_id is not None and sae_id not in names:
        raise InputError(
            f"No steering result is of SAE {sae_id!r}. {suggest(sae_id, names)}"
        )
    paths = [path for path, name in found if sae_id in (None, name)]
    if len(paths) > 1:
        listed = ", ".join(map(repr, sorted(names)))
        raise InputError(
            f"Folder {str(results)!r} has {len(paths)} steering results; expected one. Name "
            f"the SAE with --sae-id ({listed}), or the folder of one release."
        )
    return paths[0]


def latent_lines(
    texts: pd.DataFrame,
    latent: int,
    *,
    amount: float | None = None,
    controls: bool = False,
) -> list[str]:
    """
    Return one latent's concept, prompts, texts and scores as lines.

    ``texts`` is the table of one SAE; ``amount`` None shows all strengths. ``controls`` also shows
    the controls' texts; calibration texts are never shown.

    Raises:
        InputError: if the latent was not steered, or not at this strength.
    """
    shown_texts = results_of(texts)
    rows = shown_texts.loc[shown_texts["latent"] == latent]
    if rows.empty:
        known = sorted(set(texts["latent"].tolist()))
        shown = ", ".join(map(str, known[:12]))
        raise InputError(
            f"Latent {latent} was not steered with; expected one of {len(known)}, such as "
            f"{shown}."
        )
    amounts = sorted(set(rows["amount"].dropna()))
    if amount is not None:
        if amount not in amounts:
            raise InputError(
                f"Latent {latent} was not steered with at amount {amount}; expected one of "
                f"{', '.join(map(str, amounts))}."
            )
        rows = rows.loc[rows["amount"].isna() | (rows["amount"] == amount)]
    if not controls:
        rows = rows.loc[rows["arm"] == "steered"]
    first = rows.iloc[0]
    concept = first["explanation"]
    said = concept if isinstance(concept, str) else "(no explanation)"
    lines = [f"Latent {latent}: {said}", _about(first), ""]
    judges = judges_of(texts)
    for _, row in rows.iterrows():
        lines += [*_pair(row, judges), ""]
    return lines


def show_latent(
    result: Path, latent: int, *, amount: float | None = None, controls: bool = False
) -> str:
    """Return the text of ``latent_lines`` for a result file."""
    record: dict[str, Any] = read_result(result)
    head = [f"SAE {record['sae_lens_id']} of {record['sae_lens_release_id']}"]
    texts = read_texts(result)
    own = [name for name in judges_of(texts) if name in CALIBRATED]
    if own:
        head.append(
            f"Successes of {', '.join(own)} are those of this SAE's own thresholds; where SAEs are "
            "compared, all have common ones."
        )
    lines = latent_lines(texts, latent, amount=amount, controls=controls)
    return "\n".join([*head, *lines]).rstrip()


def _about(row: Any) -> str:
    known = {"interp score": row["interp_score"], "stability": row["stability"]}
    return ", ".join(
        f"{name} {'unknown' if math.isnan(value) else f'{value:.2f}'}"
        for name, value in known.items()
    )


def _pair(row: Any, judges: list[str]) -> Iterator[str]:
    strength = row["strength"]
    added = "nothing added" if math.isnan(strength) else f"strength {strength:.3g}"
    yield f"{row['prompt']} ...   [{_TITLES[row['arm']]}, {added}]"
    yield f"  unsteered: {_line(row['original'])}"
    yield f"  {_TITLES[row['arm']]}: {_line(row['text'])}"
    yield f"  perplexity {row['original_perplexity']:.3g} -> {row['perplexity']:.3g}"
    for judge in judges:
        yield f"  {judge}: {_verdict(row, judge)}"


def _line(text: str) -> str:
    """Return a text on one line; line breaks are shown."""
    return text.strip().replace("\n", "\\n")


def _verdict(row: Any, judge: str) -> str:
    if row[f"{judge}_success"] is None or pd.isna(row[f"{judge}_success"]):
        return f"no verdict ({row[f'{judge}_status']}: {row[f'{judge}_reason']})"
    outcome = "success" if row[f"{judge}_success"] else "no success"
    return f"{row[f'{judge}_score']:.3g}, {outcome}"
