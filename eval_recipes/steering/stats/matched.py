"""Fits of success on stability, in which matched latents count once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval_recipes.steering.stats.logistic import LogisticFit, fit_logistic
from eval_recipes.steering.stats.rates import make_trials


@dataclass(frozen=True)
class Support:
    """Latents and texts behind a fit on stability."""

    latents: int
    """Latents of all SAEs; matches are not counted as one."""
    common: float
    """The most common stability."""
    varied: int
    """Latents with another stability."""
    varied_texts: int
    varied_successes: int
    common_texts: int
    common_successes: int


@dataclass(frozen=True)
class PooledStability:
    """
    Logistic fits of success on a latent's stability, over the SAEs of several groups.

    Errors are robust within matched latents: a stable latent of several SAEs is one latent.
    """

    alone: LogisticFit
    """On ``stability``. Mixes two questions if groups differ in stability and in success."""
    within: LogisticFit
    """On ``stability`` and a constant for each group: stability within groups."""
    adjusted: LogisticFit | None
    """On ``stability``, the groups and ``score``; None if no latent has a score."""
    support: Support


def pooled_stability(rows: pd.DataFrame, success: str) -> PooledStability | None:
    """
    Fit success on stability over the latents of all groups; None if none has a stability.

    Args:
        rows: steered pairs with a verdict and columns ``group``, ``sae``, ``seed``, ``latent``,
            ``stability``, ``interp_score``, ``shared_with``.
        success: name of the column of successes.
    """
    known = rows.loc[rows["stability"].notna()]
    if known.empty:
        return None
    scored = known.loc[known["interp_score"].notna()]
    adjusted = None
    if not scored.empty:
        adjusted = _fit(scored, success, groups=True, score=True)
    return PooledStability(
        alone=_fit(known, success, groups=False, score=False),
        within=_fit(known, success, groups=True, score=False),
        adjusted=adjusted,
        support=_support(known, success),
    )


def _support(rows: pd.DataFrame, success: str) -> Support:
    latents = rows.drop_duplicates(["group", "sae", "latent"])
    common = float(latents["stability"].mode().iloc[0])
    at_common = rows["stability"] == common
    won = rows[success].astype(bool)
    return Support(
        latents=len(latents),
        common=common,
        varied=int((latents["stability"] != common).sum()),
        varied_texts=int((~at_common).sum()),
        varied_successes=int((won & ~at_common).sum()),
        common_texts=int(at_common.sum()),
        common_successes=int((won & at_common).sum()),
    )


def _fit(rows: pd.DataFrame, success: str, *, groups: bool, score: bool) -> LogisticFit:
    predictors: dict[str, NDArray[np.float64]] = {
        "stability": rows["stability"].to_numpy(dtype=np.float64)
    }
    if score:
        predictors["score"] = rows["interp_score"].to_numpy(dtype=np.float64)
    if groups:
        # the first group is the intercept
        for name in list(dict.fromkeys(rows["group"]))[1:]:
            found: NDArray[np.bool_] = (rows["group"] == name).to_numpy(dtype=bool)
            predictors[f"group {name}"] = found.astype(np.float64)
    success_of = rows[success].astype(bool).tolist()
    return fit_logistic(make_trials(success_of, matched_latents(rows)), predictors)


@dataclass(frozen=True)
class Matches:
    """Latents that several SAEs of a group have in common."""

    matched: int
    """Latents that match a latent of another of these SAEs."""
    latents: int


def count_matches(rows: pd.DataFrame) -> Matches | None:
    """
    Count the latents of a group that match a latent of another of its SAEs.

    ``rows`` has the columns of ``pooled_stability``. None if matches are not known.
    """
    once = rows.drop_duplicates(["sae", "latent"])
    if not any(isinstance(shared, str) for shared in once["shared_with"]):
        return None
    sizes = Counter(matched_latents(once))
    return Matches(sum(size for size in sizes.values() if size > 1), len(once))


def matched_latents(rows: pd.DataFrame) -> Sequence[Hashable]:
    """
    Return one name per row, the same for a latent and all its matches in other seeds.

    Matches come from ``cross_seed`` (``shared_with``: JSON, latent by seed) and are followed
    from seed to seed. A latent without known matches has its own name.
    """
    parent: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    keys: list[Hashable] = []
    columns = ["group", "sae", "seed", "latent", "shared_with"]
    for group, sae, seed, latent, shared in rows[columns].itertuples(
        index=False, name=None
    ):
        if not isinstance(shared, str):
            keys.append((group, sae, latent))
            continue
        key = (group, int(seed), int(latent))
        keys.append(key)
        for other, partner in json.loads(shared).items():
            parent[root(key)] = root((group, int(other), int(partner)))
    return [root(key) for key in keys]
