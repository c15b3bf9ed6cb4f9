"""Parquet table of latents: partners in the other seeds and stability."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from eval_recipes.cross_seed.aggregate import oriented, shared_masks
from eval_recipes.cross_seed.measure import Group
from eval_recipes.results.sidecar import SideTable
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import latent_stability, stable_mask

TABLE_SUFFIX = "_stability.parquet"

STABILITY = SideTable(
    "Stability table",
    "cross_seed",
    "stability_table",
    TABLE_SUFFIX,
    ("latent", "alive", "stability"),
)
"""One row per latent; ``read`` takes its path or that of the result that names it."""


def stability_table(group: Group, seed: int) -> Any:
    """
    Return the ``pyarrow.Table`` of one SAE, with a row for each latent.

    Columns: ``latent``, ``alive`` (by weights), ``stability`` (share of the other seeds in
    which it is shared), ``stability_alive`` (the same with only alive latents matched).
    For each other seed t: ``decoder_partner_t`` and ``encoder_partner_t`` (latent ids there,
    null for none), ``decoder_similarity_t`` and ``encoder_similarity_t`` (|cosine|),
    ``shared_t``, ``shared_alive_t``.
    """
    weights = group.saes[seed].weights
    sides = oriented(group.pairs, seed)
    columns: dict[str, Any] = {
        "latent": pa.array(range(len(weights.alive)), pa.int64()),
        "alive": weights.alive.numpy(),
        "stability": group.latent_stability[seed].numpy(),
        "stability_alive": latent_stability(shared_masks(group.pairs, seed)[1]).numpy(),
    }
    for other, pair, side in sides:
        match = pair.match[side]
        for name, found in (("decoder", match.decoder), ("encoder", match.encoder)):
            partner = found.partner.numpy()
            columns[f"{name}_partner_{other}"] = pa.array(partner, mask=partner < 0)
            columns[f"{name}_similarity_{other}"] = found.similarity.numpy()
        columns[f"shared_{other}"] = match.shared.numpy()
        columns[f"shared_alive_{other}"] = pair.match_alive[side].shared.numpy()
    return STABILITY.of(
        columns,
        group.saes[seed].subject,
        other_seeds=[other for other, _, _ in sides],
        other_sae_ids=[group.saes[other].subject.sae_id for other, _, _ in sides],
    )


def read_stability(path: str | Path) -> pd.DataFrame:
    """Read a stability table, given its own path or that of a result; see ``SideTable.read``."""
    return STABILITY.read(path)


def stable_latents(
    path: str | Path, *, minimum: float = 0.5, alive_only: bool = True
) -> list[int]:
    """
    Return the ids of the latents shared with at least ``minimum`` of the other seeds.

    Args:
        path: a stability table, or the cross-seed result next to it.
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
