"""One threshold for all SAEs that are compared, learned from the unsteered pairs of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from eval_recipes.steering.judges.threshold import Threshold, calibrate
from eval_recipes.steering.results.texts import CALIBRATION
from saereg_plugin.errors import InputError


def common_threshold(
    tables: Sequence[pd.DataFrame], judge: str, rate: float
) -> Threshold:
    """
    Return the threshold that at most a share ``rate`` of all tables' unsteered pairs exceeds.

    An SAE's own threshold has an error that all its latents share: tests over latents would
    take it for a difference of SAEs. A threshold that is common to both sides of a comparison
    moves both alike, as far as the scores of both spread alike: unsteered texts of concepts
    whose scores spread more pass it more often, so success is read less its control.

    Args:
        tables: texts with a column ``sae``; none twice.
        judge: one that learns its threshold.
        rate: false-positive rate.

    Raises:
        InputError: if an SAE's texts hold no scores of such pairs.
    """
    scores: list[float] = []
    clusters: list[tuple[str, int]] = []
    for table in tables:
        rows = table.loc[
            (table["arm"] == CALIBRATION) & table[f"{judge}_score"].notna()
        ]
        without = sorted(set(table["sae"]) - set(rows["sae"]))
        if without:
            raise InputError(
                f"The texts of SAE {without[0]!r} hold no unsteered pairs that the judge "
                f"{judge!r} scored; expected rows of the arm {CALIBRATION!r}, from which the "
                "threshold common to all SAEs is learned. An earlier version did not store "
                "them: run the evaluation 'steering' again."
            )
        scores += rows[f"{judge}_score"].tolist()
        clusters += rows[["sae", "latent"]].itertuples(index=False, name=None)
    return calibrate(scores, rate, clusters=clusters)


def rejudged(table: pd.DataFrame, thresholds: Mapping[str, Threshold]) -> pd.DataFrame:
    """
    Return texts whose successes are those of other thresholds; who has no score has no verdict.

    Args:
        table: texts.
        thresholds: by judge; the other judges' verdicts stay.
    """
    columns = {
        f"{judge}_success": table[f"{judge}_score"]
        .gt(found.value)
        .astype(object)
        .where(table[f"{judge}_score"].notna(), None)
        for judge, found in thresholds.items()
    }
    return table.assign(**columns)
