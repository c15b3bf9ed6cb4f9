"""SAELens' topk architecture with regularisers."""

from __future__ import annotations

from dataclasses import dataclass

from sae_lens import TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from typing_extensions import override

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.sparse_step import SparseStepMixin
from saereg_plugin.architectures.topk_fields import TopKFieldsMixin


@dataclass
class RegularizedTopKTrainingSAEConfig(TopKFieldsMixin, TopKTrainingSAEConfig):
    """
    SAELens' TopKTrainingSAEConfig with regularisers; saved as SAELens' `topk`.

    Further fields: see ``TopKFieldsMixin`` and ``RegularizedConfigMixin``.
    """

    inference_config = TopKSAEConfig

    @override
    @classmethod
    def architecture(cls) -> str:
        return "regularized_topk"


class RegularizedTopKTrainingSAE(RegularizedMixin, SparseStepMixin, TopKTrainingSAE):
    """SAELens' TopKTrainingSAE with regularisers and mechanics."""

    cfg: RegularizedTopKTrainingSAEConfig  # type: ignore[assignment]
