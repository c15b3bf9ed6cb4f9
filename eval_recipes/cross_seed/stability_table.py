"""One row a latent: its partners in the other seeds and how stable it is, as parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from eval_recipes.cross_seed.aggregate import oriented
from eval_recipes.cross_seed.measure import Group
from eval_recipes.results.reading import SUFFIX, read_result
from eval_recipes.results.sidecar import named_path, read_table, side_path
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import latent_stability, stable_mask

TABLE_SUFFIX = "_stability.parquet"
_EVAL = "cross_seed"
_METADATA = b"saereg"


def table_path(result: Path) -> Path:
    """
    Return where the table beside a result file lies.

    >>> table_path(Path("cross_seed/lab_run_k32_eval_results.json")).name
    'lab_run_k32_stability.parquet'
    """
    return side_path(result, TABLE_SUFFIX)


def stability_table(group: Group, seed: int) -> Any:
    """
    Return the ``pyarrow.Table`` of one SAE, with a row for each latent.

    Columns: ``latent``, ``alive`` (by weights), ``stability`` (share of the other seeds in
    which it is shared), ``stability_alive`` (the same after leaving out, before matching,
    what is not alive), and for each other seed t ``decoder_partner_t``,
    ``encoder_partner_t`` (latent ids there, null for none), ``decoder_similarity_t``,
    ``encoder_similarity_t`` (|cosine|), ``shared_t``, ``shared_alive_t``.
    """
    weights = group.saes[seed].weights
    sides = oriented(group.pairs, seed)
    columns: dict[str, Any] = {
        "latent": pa.array(range(len(weights.alive)), pa.int64()),
        "alive": weights.alive.numpy(),
        "stability": group.latent_stability[seed].numpy(),
        "stability_alive": latent_stability(
            torch.stack([pair.match_alive[side].shared for _, pair, side in sides])
        ).numpy(),
    }
    for other, pair, side in sides:
        match = pair.match[side]
        for name, found in (("decoder", match.decoder), ("encoder", match.encoder)):
            partner = found.partner.numpy()
            columns[f"{name}_partner_{other}"] = pa.array(partner, mask=partner < 0)
            columns[f"{name}_similarity_{other}"] = found.similarity.numpy()
        columns[f"shared_{other}"] = match.shared.numpy()
        columns[f"shared_alive_{other}"] = pair.match_alive[side].shared.numpy()
    subject = group.saes[seed].subject
    about = {
        "release": subject.release,
        "sae_id": subject.sae_id,
        "group": subject.group,
        "seed": seed,
        "other_seeds": [other for other, _, _ in sides],
        "other_sae_ids": [group.saes[other].subject.sae_id for other, _, _ in sides],
    }
    table = pa.table(columns)
    return table.replace_schema_metadata({_METADATA: json.dumps(about).encode()})


def read_stability(path: str | Path) -> pd.DataFrame:
    """
    Read a stability table, given its own path or that of the result that names it.

    Raises:
        InputError: if there is none, it is damaged, or it is another one than the result's.
    """
    path = Path(path)
    return read_table(
        _named_by(path) if path.name.endswith(SUFFIX) else path,
        what="Stability table",
        eval=_EVAL,
        columns=("latent", "alive", "stability"),
    )


def stable_latents(
    path: str | Path, *, minimum: float = 0.5, alive_only: bool = True
) -> list[int]:
    """
    Return the ids of the latents shared with at least ``minimum`` of the other seeds.

    Args:
        path: a stability table, or the cross-seed result beside it.
        minimum: share of the other seeds, above 0 and at most 1.
        alive_only: leave out latents that are not alive by weights.

    Raises:
        InputError: if ``minimum`` or the table cannot be used.
    """
    if not 0 < minimum <= 1:
        raise InputError(
            f"minimum = {minimum}; expected a share above 0 and at most 1, such as 0.5 for "
            "latents shared with at least half of the other seeds."
        )
    table = read_stability(path)
    chosen = stable_mask(torch.tensor(table["stability"].to_numpy()), minimum=minimum)
    if alive_only:
        chosen &= torch.tensor(table["alive"].to_numpy())
    return [int(latent) for latent in table.loc[chosen.numpy(), "latent"]]


def _named_by(result: Path) -> Path:
    extra = read_result(result).get("eval_result_unstructured")
    named = extra.get("stability_table") if isinstance(extra, dict) else None
    if not isinstance(named, dict):
        raise InputError(
            f"Result {str(result)!r} names no stability table; expected a result of the "
            "evaluation 'cross_seed'. Give such a result, or run the evaluation again."
        )
    return named_path(result, named, what="Stability table", eval=_EVAL)
