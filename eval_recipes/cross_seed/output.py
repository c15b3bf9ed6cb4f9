"""Result file and stability table of the cross-seed evaluation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalOutput,
    BaseMetricCategories,
    BaseResultDetail,
)
from torch import Tensor

from eval_recipes.cross_seed.aggregate import oriented, shared_masks
from eval_recipes.cross_seed.measure import Group
from eval_recipes.cross_seed.metrics import (
    AliveDecoderGeometryMetrics,
    BasisMetrics,
    BlockMetrics,
    DecoderGeometryMetrics,
    EncoderDecoderMetrics,
    FiringMetrics,
    HeldOutMetrics,
    LatentGeometryMetrics,
    LossMetrics,
    LossPartMetrics,
    RandomSubspaceMetrics,
    ReconstructionMetrics,
    SharedMetrics,
    SimilarityMetrics,
    SpanMetrics,
    StabilityMetrics,
    StableLatentMetrics,
    SubspaceMetrics,
    SubspaceNullMetrics,
)
from eval_recipes.cross_seed.nulls import KINDS, SPAN_SIZES
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.stability import STABILITY, read_stability
from eval_recipes.results.metrics import metric, metric_class, value
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import latent_stability, stable_mask


@dataclass
class MatchingGaps:
    """
    By how much the total similarity of each matching may lie below the optimum.

    Proven from dual prices that were checked against all pairs of latents; 0 is exact.
    """

    decoder: float = value("Gap, Decoder", "Decoder rows by |cosine|")
    decoder_relative: float = value(
        "Relative Gap, Decoder", "Decoder rows by |cosine|, over the total similarity"
    )
    encoder: float = value("Gap, Encoder", "Encoder columns by |cosine|")
    encoder_relative: float = value(
        "Relative Gap, Encoder",
        "Encoder columns by |cosine|, over the total similarity",
    )
    decoder_signed: float = value(
        "Gap, Decoder Signed", "Decoder rows by signed cosine"
    )
    decoder_signed_relative: float = value(
        "Relative Gap, Decoder Signed",
        "Decoder rows by signed cosine, over the total similarity",
    )
    decoder_alive: float = value(
        "Gap, Decoder Alive", "Alive latents' decoder rows by |cosine|"
    )
    decoder_alive_relative: float = value(
        "Relative Gap, Decoder Alive",
        "Alive latents' decoder rows by |cosine|, over the total similarity",
    )
    encoder_alive: float = value(
        "Gap, Encoder Alive", "Alive latents' encoder columns by |cosine|"
    )
    encoder_alive_relative: float = value(
        "Relative Gap, Encoder Alive",
        "Alive latents' encoder columns by |cosine|, over the total similarity",
    )


@dataclass
class UnstableOverlap:
    """||U_r' V_r||_F^2 / r of the unstable latents' subspaces, against random ones."""

    ranks: list[int] = value("Ranks", "r")
    overlap: list[float | None] = value(
        "Overlap", "By rank; null beyond the rank of either block"
    )
    random: list[float] = value("Random Overlap", "r / d_in")
    random_std: list[float] = value(
        "Random Overlap (Standard Deviation)",
        "Of one pair of independent uniformly random subspaces",
    )
    gaussian: list[float | None] = value(
        "Overlap of Gaussian Rows",
        "Mean over draws of as many rows of N(0, Sigma_x); null without activations",
    )
    gaussian_std: list[float | None] = value(
        "Overlap of Gaussian Rows (Standard Deviation)", "Over draws"
    )
    stable_matched: list[float | None] = value(
        "Overlap of Stable Latents, Equal Number", "Mean over draws"
    )
    unstable_matched: list[float | None] = value(
        "Overlap of Unstable Latents, Equal Number", "Mean over draws"
    )


_metric = partial(metric, nullable=False)


@metric_class
class CrossSeedPair(BaseResultDetail):
    """This SAE (A) and one other seed (B); intervals: bootstrap over latents."""

    sae_ids: list[str] = value("SAEs", "Ids of A and B")
    seeds: list[int] = value("Seeds", "Seeds of A and B")
    alive_by_weights: list[int] = value("Alive Latents by Weights", "Of A and B")
    matching_gaps: MatchingGaps = value(
        "Certified Gaps", "Of each matching behind the figures"
    )
    unstable_overlap: UnstableOverlap = value(
        "Overlap of Unstable Subspaces", "By rank"
    )
    mean_max_cos = _metric("Mean Max Cosine", "Both sides")
    mean_max_cos_decoder = _metric("Mean Max Cosine, Decoder", "Both sides")
    mean_max_cos_encoder = _metric("Mean Max Cosine, Encoder", "Both sides")
    fraction_paired = _metric("Fraction Paired", "Latents of A paired in B")
    fraction_paired_symmetrised = _metric(
        "Fraction Paired, Symmetrised", "Mean of both sides"
    )
    pw_mcc_signed = _metric("PW-MCC, Signed", "Mean matched signed decoder cosine")
    pw_mcc_absolute = _metric("PW-MCC, Absolute", "Mean matched |decoder cosine|")
    shared = _metric("Shared, All Latents", "Of all latents")
    shared_alive = metric(
        "Shared, Alive Latents", "Over the smaller alive count; null if it is 0"
    )


EVAL_TYPE_ID_CROSS_SEED = "cross_seed"


@dataclass
class GeometryMetrics(
    LatentGeometryMetrics, AliveDecoderGeometryMetrics, DecoderGeometryMetrics
):
    """Geometry of one dictionary."""


@dataclass
class BaselineMetrics(
    RandomSubspaceMetrics,
    StableLatentMetrics,
    EncoderDecoderMetrics,
    AliveDecoderGeometryMetrics,
    DecoderGeometryMetrics,
    StabilityMetrics,
    SharedMetrics,
    SimilarityMetrics,
):
    """The same figures for random dictionaries of the same shape."""

    expected_abs_cos: float = value(
        "Expected |Cosine|",
        "E|cos| of two random directions, Gamma(d / 2) / (sqrt(pi) Gamma((d + 1) / 2)): what c_dec is for random rows",
    )


@dataclass
class SubspaceCategory(BlockMetrics, SubspaceNullMetrics):
    """Overlaps of one SAE's unstable subspace, and their nulls."""


@dataclass
class GroupMetrics(
    LossPartMetrics,
    FiringMetrics,
    BasisMetrics,
    SubspaceMetrics,
    ReconstructionMetrics,
    HeldOutMetrics,
    LatentGeometryMetrics,
    AliveDecoderGeometryMetrics,
    DecoderGeometryMetrics,
    StabilityMetrics,
    SharedMetrics,
    SimilarityMetrics,
):
    """Means over the group; the same in the file of each of its SAEs."""

    n_seeds: int = value("Seeds", "Seeds of the group that were measured")


@dataclass
class CrossSeedMetricCategories(BaseMetricCategories):
    """Categories of the metrics."""

    similarity: SimilarityMetrics = value(
        "Similarity",
        "This SAE against the other seeds of its group, mean over them; intervals: bootstrap over latents",
    )
    shared: SharedMetrics = value(
        "Shared Latents",
        "Latents shared with the other seeds, mean over them; intervals: bootstrap over latents",
    )
    stability: StabilityMetrics = value(
        "Stability",
        "This SAE's latents over its pairs with all other seeds; intervals: bootstrap over latents",
    )
    geometry: GeometryMetrics = value(
        "Dictionary Geometry",
        "Vectors of this SAE alone; intervals: bootstrap over latents",
    )
    heldout: HeldOutMetrics = value(
        "Held-out Text",
        "Reconstruction and sparsity of this SAE; intervals: bootstrap over contexts",
    )
    reconstruction: ReconstructionMetrics = value(
        "Reconstruction by Stable Latents",
        "What latents that come back in other seeds carry; intervals: bootstrap over contexts; null if it was not measured",
    )
    subspaces: SubspaceCategory = value(
        "Unstable Subspaces",
        "This SAE against the other seeds, mean over them; the overlap has no interval: the subspaces of a resample are others; intervals of nulls are over draws",
    )
    spans: SpanMetrics = value(
        "Spans of Unstable Latents",
        "This SAE's unstable latents in spans of the other seeds' unstable latents, mean over these seeds; intervals: bootstrap over latents",
    )
    firing: FiringMetrics = value(
        "Firing and Surface Forms",
        "Firing rate and token forms of this SAE's latents against stability; intervals: bootstrap over latents; null if it was not measured",
    )
    loss: LossMetrics = value(
        "Loss by Stability",
        "Loss of the language model with parts of this SAE at its hook; intervals: bootstrap over contexts; null if it was not measured",
    )
    baseline: BaselineMetrics = value(
        "Random Baseline",
        "The same figures for random SAEs of this shape, decoder rows and encoder columns drawn independently from a Gaussian: one against another, stability and stable latents against as many as this SAE has other seeds; the geometry of alive rows is that of as many random rows as this SAE has alive latents, all other figures of alive latents are of the random SAE's own. Intervals: bootstrap over latents",
    )
    group: GroupMetrics = value(
        "Group",
        "Means over the group's seeds (Student's t interval) or pairs of seeds (delete-one-seed jackknife with five seeds or more; with fewer the pairs' values are listed); stability, reconstruction shares and what rests on stable latents have no interval: the SAEs' figures depend on each other",
    )


@dataclass(config=ConfigDict(title="Cross Seed"))
class CrossSeedEvalOutput(
    BaseEvalOutput[CrossSeedEvalConfig, CrossSeedMetricCategories, CrossSeedPair]
):
    """
    Consistency of SAEs of one configuration across seeds (arXiv 2603.04198, 2505.20254), dictionary geometry (arXiv 2508.16560), held-out reconstruction.
    """

    eval_config: CrossSeedEvalConfig
    eval_id: str
    datetime_epoch_millis: int
    eval_result_metrics: CrossSeedMetricCategories
    eval_result_details: list[CrossSeedPair] = Field(
        default_factory=list,
        title="Seed Pairs",
        description="One object for each other seed of the group",
    )
    eval_type_id: str = value(
        "Eval Type ID", "The type of the evaluation", default=EVAL_TYPE_ID_CROSS_SEED
    )


def stability_table(group: Group, seed: int) -> Any:
    """
    Return the ``pyarrow.Table`` of one SAE, with a row for each latent.

    Columns: ``latent``, ``alive`` (by weights), ``stability`` (share of the other seeds in
    which it is shared), ``stability_alive`` (the same with only alive latents matched).
    ``firing_rate``, ``surface_form`` and ``surface_form_chance`` (null where not measured),
    ``stability_tenth`` (1 to 10, null for latents that are not alive). For m = 1, 2, 4, 8
    ``span_nearest_m``, ``span_random_m``, ``span_gaussian_m`` and ``span_moments_m``, of
    unstable latents.
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
        **_null_columns(group, seed),
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


def _null_columns(group: Group, seed: int) -> dict[str, Any]:
    """Return the columns of firing, token forms and spans; null where nothing was measured."""
    n = len(group.stable[seed])
    firing, nulls = group.firing.get(seed), group.nulls
    given = {
        "firing_rate": firing and firing.rate,
        "surface_form": firing and firing.form,
        "surface_form_chance": firing and firing.form_by_chance,
    }
    columns: dict[str, Any] = {
        name: pa.nulls(n, pa.float64()) if found is None else _with_nulls(found)
        for name, found in given.items()
    }
    parts = group.tenths(seed).numpy()
    columns["stability_tenth"] = pa.array(parts, mask=parts == 0)
    for kind in KINDS:
        for column, m in enumerate(SPAN_SIZES):
            columns[f"span_{kind}_{m}"] = (
                pa.nulls(n, pa.float64())
                if nulls is None
                else _with_nulls(nulls.saes[seed].spans[kind][:, :, column].mean(0))
            )
    return columns


def _with_nulls(values: Tensor) -> Any:
    """Return an array of float64 with NaN as null."""
    return pa.array(values.numpy(), pa.float64(), mask=values.isnan().numpy())


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
