"""The temporal difference under SAELens' unmodified runner, on a real model and real text."""

from __future__ import annotations

from typing import Any

import pytest
from sae_lens import LanguageModelSAETrainingRunner
from transformer_lens import HookedTransformer

import saereg_plugin as sr
from tests.regularizers.synthetic import D_SAE
from tests.training import D_IN, make_cfg, runner_cfg

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Dataset is not tokenized"),
]


def run(model: HookedTransformer, **fields: Any) -> Any:
    """Ten steps of two contexts of 32 tokens."""
    sae_cfg = make_cfg(
        d_in=D_IN,
        d_sae=D_SAE,
        k=4,
        regularizers=[sr.TemporalDifference(coefficient=1e-3)],
        **fields.pop("sae", {}),
    )
    cfg = runner_cfg(sae_cfg, **fields)
    return LanguageModelSAETrainingRunner(cfg, override_model=model).run()


@pytest.mark.parametrize(
    "scaling", ["none", "expected_average_only_in", "covariance_whitening"]
)
def test_tokens_in_order_train(scaling: str, model: HookedTransformer) -> None:
    sae = run(
        model, activations_mixing_fraction=0, sae={"normalize_activations": scaling}
    )
    assert sae.step_index == 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Set activations_mixing_fraction=0"),
        ({"prepend_bos": False}, "Set prepend_bos=True"),
        ({"exclude_special_tokens": True}, "Set exclude_special_tokens=False"),
        ({"train_batch_size_tokens": 50}, "no multiple of context_size=32"),
    ],
)
def test_other_settings_are_refused(
    fields: dict[str, Any], message: str, model: HookedTransformer
) -> None:
    with pytest.raises(sr.InputError, match=message):
        run(model, **{"activations_mixing_fraction": 0 if fields else 0.5, **fields})
