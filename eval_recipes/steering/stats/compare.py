"""Steering results of SAEs, read and compared group by group."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval_recipes.results.files import read_result
from eval_recipes.results.reading import result_files
from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.judges.protocol import CALIBRATED, Threshold, calibrate
from eval_recipes.steering.stats.association import interaction
from eval_recipes.steering.stats.figures import (
    Links,
    Rates,
    fluency_loss,
    judged,
    links,
    of_latents,
    over_control,
    rates,
    trials_of,
)
from eval_recipes.steering.stats.group_tests import (
    GroupComparison,
    compare_groups,
    difference_over_seeds,
    rate_over_seeds,
)
from eval_recipes.steering.stats.logistic import LogisticFit
from eval_recipes.steering.stats.matched import PooledStability, pooled_stability
from eval_recipes.steering.stats.rates import (
    Array,
    Trials,
    restricted,
    success_rate,
)
from eval_recipes.steering.texts import CALIBRATION, EVAL, read_texts
from saereg_plugin.errors import InputError

SaeKey = tuple[str, str]
"""Release and id of an SAE."""


def steering_results(
    results: Path, keep: Collection[SaeKey] | None = None
) -> list[tuple[Path, dict[str, Any]]]:
    """
    Return file and record of every steering result below a folder.

    ``keep`` names the only SAEs to return; None keeps all.

    Raises:
        InputError: if there is none.
    """
    found = [
        (path, record)
        for path in result_files(results)
        if (record := read_result(path))["eval_type_id"] == EVAL
        and (keep is None or key_of(record) in keep)
    ]
    if not found:
        whose = "" if keep is None else " of these SAEs"
        raise InputError(
            f"Folder {str(results)!r} has no result of the evaluation 'steering'{whose}; "
            "expected one or more. Run it into this folder."
        )
    return found


def key_of(record: dict[str, Any]) -> SaeKey:
    """Return release and id of a result's SAE."""
    return str(record["sae_lens_release_id"]), str(record["sae_lens_id"])


@dataclass(frozen=True)
class SteeredGroup:
    """The SAEs of one group and all their texts."""

    name: str
    records: tuple[dict[str, Any], ...]
    """Result records, one per SAE."""
    texts: pd.DataFrame
    """Texts of all SAEs; the columns ``sae`` and ``seed`` name the SAE."""


def read_groups(
    results: Path, keep: Collection[SaeKey] | None = None
) -> list[SteeredGroup]:
    """
    Read the steering results below a folder, group by group.

    Each SAE is judged by its own threshold; see ``with_common_thresholds``. ``keep``
    names the only SAEs to read; None keeps all.

    Raises:
        InputError: if there is none, or its texts cannot be read.
    """
    records: dict[str, list[dict[str, Any]]] = {}
    frames: dict[str, list[pd.DataFrame]] = {}
    for path, record in steering_results(results, keep):
        block = record["eval_result_unstructured"]["saereg"]
        name = str(block["group"])
        records.setdefault(name, []).append(record)
        named = {"sae": "/".join(key_of(record)), "seed": block["seed"]}
        frames.setdefault(name, []).append(read_texts(path).assign(**named))
    return [
        SteeredGroup(name, tuple(found), pd.concat(frames[name], ignore_index=True))
        for name, found in records.items()
    ]


def with_common_thresholds(
    groups: Sequence[SteeredGroup],
) -> tuple[list[SteeredGroup], dict[str, Threshold]]:
    """
    Return groups judged by one common threshold per judge, and these thresholds.

    Use them for anything that compares or pools SAEs. Verdicts of judges that learn no
    threshold do not change.

    Raises:
        InputError: if false-positive rates differ, or texts lack what thresholds are learned
            from.
    """
    learning = [name for name in common_judges(groups) if name in CALIBRATED]
    if not learning:
        return list(groups), {}
    rate: float = config_value(groups, "false_positive_rate")
    tables = [group.texts for group in groups]
    found = {name: common_threshold(tables, name, rate) for name in learning}
    return [
        replace(group, texts=rejudged(group.texts, found)) for group in groups
    ], found


@dataclass(frozen=True)
class GroupRates:
    """Figures of one group at one strength by one judge, SAEs pooled, clustered by latent."""

    rates: Rates
    over_seeds: Interval | None
    """Mean of the SAEs' rates, Student's t over seeds."""
    passed: Interval | None
    """Share of the group's own calibration pairs above the threshold; None if it learns none."""
    loss: Interval | None
    links: Links


def group_rates(
    group: SteeredGroup, judge: str, amount: float, *, max_ratio: float, seed: int
) -> GroupRates:
    """Return the figures of a group."""
    calibration = judged(group.texts, judge, CALIBRATION, None)
    return GroupRates(
        rates=rates(group.texts, judge, amount, max_ratio=max_ratio, seed=seed),
        over_seeds=rate_over_seeds(seed_rates(group, judge, amount)),
        passed=success_rate(trials_of(calibration, judge), seed=seed),
        loss=fluency_loss(group.texts, "steered", amount, seed=seed),
        # ``stability_over_groups`` relates stability: it knows the latents that match
        links=links(group.texts.assign(stability=np.nan), judge, amount, seed=seed),
    )


def seed_rates(group: SteeredGroup, judge: str, amount: float) -> dict[int, float]:
    """Return the success rate of each SAE by training seed; SAEs without a seed have none."""
    rows = judged(group.texts, judge, "steered", amount)
    found: dict[int, float] = {}
    for seed, part in rows.groupby("seed"):
        rate = success_rate(trials_of(part, judge), seed=0, n_resamples=1)
        if rate is not None:
            found[int(seed)] = rate.value  # pyright: ignore[reportArgumentType]
    return found


def stability_over_groups(
    groups: Sequence[SteeredGroup], judge: str, amount: float
) -> PooledStability | None:
    """
    Relate success to stability over the latents of all groups together.

    Tests the claim in the title of arXiv 2603.04198. None where stability is not known.
    """
    joined = pd.concat(
        [group.texts.assign(group=group.name) for group in groups], ignore_index=True
    )
    rows = judged(joined, judge, "steered", amount)
    return pooled_stability(rows, f"{judge}_success")


def common_judges(groups: Sequence[SteeredGroup]) -> list[str]:
    """Return the judges of all SAEs of the groups."""
    names = [
        record["eval_config"]["judges"] for group in groups for record in group.records
    ]
    return [name for name in names[0] if all(name in others for others in names)]


def config_value(groups: Sequence[SteeredGroup], name: str) -> Any:
    """
    Return a setting that all results have in common.

    Raises:
        InputError: if they differ.
    """
    found: list[Any] = [
        record["eval_config"][name] for group in groups for record in group.records
    ]
    if any(value != found[0] for value in found):
        raise InputError(
            f"Steering results differ in {name!r} ({found[0]!r} and others); expected one "
            "setting. Evaluate all SAEs in the same way to compare them."
        )
    return found[0]


def by_group(groups: Sequence[SteeredGroup]) -> Mapping[str, SteeredGroup]:
    """Return groups by name."""
    return {group.name: group for group in groups}


def common_threshold(
    tables: Sequence[pd.DataFrame], judge: str, rate: float
) -> Threshold:
    """
    Return the threshold that at most a share ``rate`` of all tables' unsteered pairs exceeds.

    An SAE's own threshold has an error that all its latents share: tests over latents would
    take it for a difference of SAEs. A common threshold moves both sides of a comparison
    alike, as far as their scores spread alike: unsteered texts of concepts whose scores
    spread more pass it more often, so read success minus its control.

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
    """Return texts judged by other thresholds; without a score there is no verdict."""
    columns: dict[str, Any] = {}
    for judge, threshold in thresholds.items():
        scores = table[f"{judge}_score"]
        passed = scores.gt(threshold.value).astype(object)
        columns[f"{judge}_success"] = passed.where(scores.notna(), None)
    return table.assign(**columns)


@dataclass(frozen=True)
class GroupDifference:
    """Difference of two groups at one strength by one judge."""

    tests: GroupComparison
    interaction: LogisticFit | None
    """Whether success follows the interp score differently; None without scores."""
    by_seed: Mapping[int, float] = field(default_factory=dict[int, float])
    """Rate of the first group's SAE minus that of the second's, for each seed of both."""
    excess: Interval | None = None
    """The same for success minus that of random directions: mean, Student's t over seeds. It
    leaves out what moves a group's texts with and without the latent alike."""
    excess_by_seed: Mapping[int, float] = field(default_factory=dict[int, float])


def seed_excesses(group: SteeredGroup, judge: str, amount: float) -> dict[int, float]:
    """Return the success of each SAE minus that of random directions, by training seed."""
    steered, control = (
        judged(group.texts, judge, name, amount) for name in ("steered", "random")
    )
    seeds: list[int] = steered["seed"].dropna().astype(int).tolist()
    found: dict[int, float] = {}
    for seed in dict.fromkeys(seeds):
        mine, theirs = (rows.loc[rows["seed"] == seed] for rows in (steered, control))
        excess = over_control(mine, theirs, judge, seed=0)
        if excess is not None:
            found[seed] = excess.value
    return found


def difference(
    a: SteeredGroup, b: SteeredGroup, judge: str, amount: float, *, seed: int
) -> GroupDifference:
    """Compare the success of group ``a`` with that of group ``b`` at one strength."""
    (trials_a, scores_a), (trials_b, scores_b) = (
        _scored(group, judge, amount) for group in (a, b)
    )
    seeds_a, seeds_b = (seed_rates(group, judge, amount) for group in (a, b))
    over_a, over_b = (seed_excesses(group, judge, amount) for group in (a, b))
    known_a, known_b = np.isfinite(scores_a), np.isfinite(scores_b)
    slopes = None
    if known_a.any() and known_b.any():
        slopes = interaction(
            restricted(trials_a, known_a),
            scores_a[known_a],
            restricted(trials_b, known_b),
            scores_b[known_b],
        )
    return GroupDifference(
        tests=compare_groups(
            trials_a, trials_b, seed=seed, seeds_a=seeds_a, seeds_b=seeds_b
        ),
        interaction=slopes,
        by_seed=_at_equal_seeds(seeds_a, seeds_b),
        excess=difference_over_seeds(over_a, over_b),
        excess_by_seed=_at_equal_seeds(over_a, over_b),
    )


def _at_equal_seeds(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    return {s: a[s] - b[s] for s in sorted(set(a) & set(b))}


def _scored(group: SteeredGroup, judge: str, amount: float) -> tuple[Trials, Array]:
    rows = judged(group.texts, judge, "steered", amount)
    trials = trials_of(rows, judge)
    return trials, of_latents(rows, trials, "interp_score")
