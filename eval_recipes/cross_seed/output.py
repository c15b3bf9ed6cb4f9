"""The result file of the cross-seed evaluation."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalOutput,
    BaseMetricCategories,
    BaseResultDetail,
)

from eval_recipes.cross_seed.config import CrossSeedEvalConfig
from eval_recipes.cross_seed.fields import value
from eval_recipes.cross_seed.output_pairs import (
    SharedMetrics,
    SimilarityMetrics,
    StabilityMetrics,
)
from eval_recipes.cross_seed.output_sae import (
    AliveDecoderGeometryMetrics,
    DecoderGeometryMetrics,
    HeldOutMetrics,
    LatentGeometryMetrics,
)

EVAL_TYPE_ID_CROSS_SEED = "cross_seed"


@dataclass
class GeometryMetrics(
    LatentGeometryMetrics, AliveDecoderGeometryMetrics, DecoderGeometryMetrics
):
    """Geometry of one dictionary."""


@dataclass
class BaselineMetrics(DecoderGeometryMetrics, SharedMetrics, SimilarityMetrics):
    """The same figures for two random dictionaries of the same shape."""

    expected_abs_cos: float = value(
        "Expected |Cosine|",
        "E|cos| of two random directions, Gamma(d / 2) / (sqrt(pi) Gamma((d + 1) / 2)): what c_dec is for random rows",
    )


@dataclass
class GroupMetrics(
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

    similarity: SimilarityMetrics = Field(
        title="Similarity",
        description="This SAE against the other seeds of its group, mean over them; intervals: bootstrap over latents",
    )
    shared: SharedMetrics = Field(
        title="Shared Latents",
        description="Latents shared with the other seeds, mean over them; intervals: bootstrap over latents",
    )
    stability: StabilityMetrics = Field(
        title="Stability",
        description="This SAE's latents over its pairs with all other seeds; intervals: bootstrap over latents",
    )
    geometry: GeometryMetrics = Field(
        title="Dictionary Geometry",
        description="Vectors of this SAE alone; intervals: bootstrap over latents",
    )
    heldout: HeldOutMetrics = Field(
        title="Held-out Text",
        description="Reconstruction and sparsity of this SAE; intervals: bootstrap over contexts",
    )
    baseline: BaselineMetrics = Field(
        title="Random Baseline",
        description="The same figures for two random SAEs of this shape, decoder rows and encoder columns drawn independently from a Gaussian; intervals: bootstrap over latents",
    )
    group: GroupMetrics = Field(
        title="Group",
        description="Means over the group's seeds (Student's t interval) or pairs of seeds (delete-one-seed jackknife); stability has no interval: the SAEs' figures depend on each other",
    )


@dataclass
class CrossSeedPair(BaseResultDetail):
    """This SAE (A) and one other seed (B)."""

    sae_ids: list[str] = Field(title="SAEs", description="Ids of A and B")
    seeds: list[int] = Field(title="Seeds", description="Seeds of A and B")
    alive_by_weights: list[int] = Field(
        title="Alive Latents by Weights", description="Of A and B"
    )
    mean_max_cos: float = Field(title="Mean Max Cosine", description="Both sides")
    mean_max_cos_decoder: float = Field(
        title="Mean Max Cosine, Decoder", description="Both sides"
    )
    mean_max_cos_encoder: float = Field(
        title="Mean Max Cosine, Encoder", description="Both sides"
    )
    fraction_paired: float = Field(
        title="Fraction Paired", description="Latents of A paired in B"
    )
    fraction_paired_symmetrised: float = Field(
        title="Fraction Paired, Symmetrised", description="Mean of both sides"
    )
    pw_mcc_signed: float = Field(
        title="PW-MCC, Signed", description="Mean matched signed decoder cosine"
    )
    pw_mcc_absolute: float = Field(
        title="PW-MCC, Absolute", description="Mean matched |decoder cosine|"
    )
    shared: float = Field(title="Shared, All Latents", description="Of all latents")
    shared_alive: float | None = Field(
        title="Shared, Alive Latents",
        description="Over the smaller alive count; null if it is 0",
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
    eval_type_id: str = Field(
        default=EVAL_TYPE_ID_CROSS_SEED,
        title="Eval Type ID",
        description="The type of the evaluation",
    )
