"""The result file of the cross-seed evaluation."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalOutput,
    BaseMetricCategories,
)

from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.output_detail import CrossSeedPair
from eval_recipes.cross_seed.output_pairs import (
    SharedMetrics,
    SimilarityMetrics,
    StabilityMetrics,
)
from eval_recipes.cross_seed.metrics import (
    AliveDecoderGeometryMetrics,
    DecoderGeometryMetrics,
    EncoderDecoderMetrics,
    HeldOutMetrics,
    LatentGeometryMetrics,
)
from eval_recipes.cross_seed.output_stable import (
    RandomSubspaceMetrics,
    ReconstructionMetrics,
    StableLatentMetrics,
    SubspaceMetrics,
)
from eval_recipes.results.metrics import value

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
class GroupMetrics(
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
    reconstruction: ReconstructionMetrics = Field(
        title="Reconstruction by Stable Latents",
        description="What latents that come back in other seeds carry; intervals: bootstrap over contexts; null if it was not measured",
    )
    subspaces: SubspaceMetrics = Field(
        title="Unstable Subspaces",
        description="This SAE against the other seeds, mean over them; no interval: the subspaces of a resample are others",
    )
    baseline: BaselineMetrics = Field(
        title="Random Baseline",
        description="The same figures for random SAEs of this shape, decoder rows and encoder columns drawn independently from a Gaussian: one against another, stability and stable latents against as many as this SAE has other seeds; the geometry of alive rows is that of as many random rows as this SAE has alive latents, all other figures of alive latents are of the random SAE's own. Intervals: bootstrap over latents",
    )
    group: GroupMetrics = Field(
        title="Group",
        description="Means over the group's seeds (Student's t interval) or pairs of seeds (delete-one-seed jackknife with five seeds or more; with fewer the pairs' values are listed); stability and reconstruction shares have no interval: the SAEs' figures depend on each other",
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
