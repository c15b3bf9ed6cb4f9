"""An architecture of a user's own, as the page on architectures says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

import saereg_plugin as sr
from saereg_plugin.architectures.config import TopKFieldsMixin
from saereg_plugin.errors import InputError
from saereg_plugin.registry import ARCHITECTURES
from tests.forked import forked
from tests.training import make_trainer, run_steps

PAGE = Path(__file__).parents[2] / "docs/howto/add-an-architecture.md"


def _train_the_example(folder: str) -> tuple[float, str]:
    """Run the page's example, train it and save it; run in a process of its own."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert code is not None
    names: dict[str, Any] = {"__name__": "own_architecture"}
    exec(code[1], names)
    cfg = names["RegularizedAbsTopKTrainingSAEConfig"](
        d_in=8,
        d_sae=32,
        k=4,
        decoder_constraint="unit_norm",
        init_seed=0,
        regularizers=[sr.WeightPenalty(coefficient=0.1)],
    )
    sae = names["RegularizedAbsTopKTrainingSAE"](cfg)
    batches = iter(torch.randn(20, 16, 8, generator=torch.Generator().manual_seed(0)))
    run_steps(make_trainer(sae, batches, steps=20), 20)
    sae.save_inference_model(folder)
    return float((sae.W_dec.norm(dim=1) - 1).abs().max().detach()), cfg.architecture()


def test_the_pages_example_keeps_unit_norm_and_is_saved_as_saelens_own(
    tmp_path: Path,
) -> None:
    deviation, name = forked(_train_the_example, str(tmp_path))
    assert deviation < 1e-5
    assert name == "regularized_abstopk"
    assert name not in SAE_TRAINING_CLASS_REGISTRY
    assert name not in ARCHITECTURES
    assert SAE.load_from_disk(tmp_path).cfg.architecture() == "abstopk"


@dataclass
class _FieldsAlone(TopKFieldsMixin, TopKTrainingSAEConfig):
    inference_config = TopKSAEConfig


class _WithoutSparseStep(sr.RegularizedMixin, TopKTrainingSAE):
    cfg: Any


def test_fields_of_the_sparse_step_need_the_sparse_step() -> None:
    with pytest.raises(InputError, match="has no SparseStepMixin"):
        _WithoutSparseStep(_FieldsAlone(d_in=8, d_sae=32, k=4))
