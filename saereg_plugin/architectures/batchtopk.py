"""SAELens' batchtopk architecture with regularisers."""

from __future__ import annotations

from dataclasses import dataclass

from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, JumpReLUSAEConfig
from typing_extensions import override

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.sparse_step import SparseBatchTopKMixin
from saereg_plugin.architectures.topk_fields import TopKFieldsMixin


@dataclass
class RegularizedBatchTopKTrainingSAEConfig(
    TopKFieldsMixin, BatchTopKTrainingSAEConfig
):
    """
    SAELens' BatchTopKTrainingSAEConfig with regularisers; saved as SAELens' `jumprelu`.

    Further fields: see ``TopKFieldsMixin`` and ``RegularizedConfigMixin``.
    """

    inference_config = JumpReLUSAEConfig

    @override
    @classmethod
    def architecture(cls) -> str:
        return "regularized_batchtopk"


class RegularizedBatchTopKTrainingSAE(
    RegularizedMixin, SparseBatchTopKMixin, BatchTopKTrainingSAE
):
    """SAELens' BatchTopKTrainingSAE with regularisers and mechanics."""

    cfg: RegularizedBatchTopKTrainingSAEConfig  # type: ignore[assignment]
