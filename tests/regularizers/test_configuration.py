"""Regulariser configurations: what is refused, and what survives a round trip."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from sae_lens import LanguageModelSAERunnerConfig, TrainingSAE, TrainingSAEConfig

import saereg_plugin as sr
from tests.regularizers.throwaway import NoisyFiring
from tests.training import ARCHITECTURES, make_cfg, runner_cfg

SCHEDULED = sr.WeightPenalty(
    coefficient=1e-4,
    norm="l1",
    target="decoder",
    reduction="mean",
    mode="decoupled",
    mask="alive",
    label="sparse_rows",
    schedule=sr.Schedule(
        warm_up_steps=10,
        anneal="cosine",
        anneal_start=20,
        anneal_steps=30,
        final_coefficient=1e-5,
    ),
)
REGULARIZERS = [SCHEDULED, NoisyFiring(coefficient=0.1, logged_only=True)]


@pytest.mark.parametrize("coefficient", [-1e-9, -1.0, math.nan, math.inf, -math.inf])
def test_bad_coefficient_is_refused(coefficient: float) -> None:
    with pytest.raises(
        sr.InputError,
        match=rf"weight_penalty: coefficient is {coefficient!r}; expected a finite number, 0 or more",
    ):
        sr.WeightPenalty(coefficient=coefficient)


def test_coefficient_that_is_text_is_refused() -> None:
    with pytest.raises(sr.InputError, match="coefficient is '1e-4'; expected a finite"):
        make_cfg(regularizers=[{"name": "weight_penalty", "coefficient": "1e-4"}])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"name": "weight_penalti"},
            "Unknown regulariser 'weight_penalti'. Did you mean 'weight_penalty'?",
        ),
        (
            {"name": "zzz"},
            "Unknown regulariser 'zzz'. Known: '",
        ),
        (
            {"name": "weight_penalty", "coeficient": 1},
            "Regulariser 'weight_penalty' has no field 'coeficient'. Did you mean 'coefficient'?",
        ),
        (
            {"name": "weight_penalty", "schedule": {"warmup_steps": 3}},
            "Schedule has no field 'warmup_steps'. Did you mean 'warm_up_steps'?",
        ),
        (
            {"name": "weight_penalty", "norm": "l3"},
            "weight_penalty: norm is 'l3'. Known: 'frobenius', 'l1', 'l2'",
        ),
        (
            {"name": "weight_penalty", "target": "decodr"},
            "weight_penalty: target is 'decodr'. Did you mean 'decoder'?",
        ),
        ({"name": "weight_penalty", "mode": "x"}, "mode is 'x'. Known: 'coupled', "),
        ({"name": "weight_penalty", "mask": "dead"}, "mask is 'dead'"),
        ({"name": "weight_penalty", "reduction": "max"}, "reduction is 'max'"),
        (
            {"name": "weight_penalty", "label": "a b"},
            "label is 'a b'; expected letters, digits and underscores",
        ),
        ({"coefficient": 1.0}, "has no name; expected for example"),
        ("weight_penalty", "'weight_penalty' is not JSON"),
        ("[1, 2]", "has no name; expected for example"),
        (3, "Regulariser 3 has no name"),
    ],
)
def test_bad_regularizer_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(sr.InputError, match=message):
        make_cfg(regularizers=[value])


def test_dictionary_json_and_object_are_the_same() -> None:
    values = SCHEDULED.to_dict()
    cfg = make_cfg(regularizers=[SCHEDULED, values, json.dumps(values)])
    assert cfg.regularizers == [SCHEDULED] * 3


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_regularizer_survives_json(regularizer: sr.RegularizerConfig) -> None:
    values = json.loads(json.dumps(regularizer.to_dict(), allow_nan=False))
    assert next(iter(values)) == "name"
    (again,) = make_cfg(regularizers=[values]).regularizers
    assert type(again) is type(regularizer)
    assert again == regularizer


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_configuration_survives_json(architecture: str) -> None:
    cfg = make_cfg(
        architecture,
        regularizers=REGULARIZERS,
        decoder_constraint="unit_norm",
        initialization="untied",
        b_dec_init="geometric_median",
        init_seed=5,
        max_norm_multiple=10.0,
    )
    values = json.loads(json.dumps(cfg.to_dict(), allow_nan=False))
    again: Any = TrainingSAEConfig.from_dict(values)
    assert type(again) is type(cfg)
    assert again.to_dict() == cfg.to_dict()
    assert again.regularizers == REGULARIZERS
    sae: Any = TrainingSAE.from_dict(values)
    assert {"norm_mask", "b_dec_init", "sparse_rows", "unit_norm"} < set(sae.components)


def test_runner_configuration_survives_json() -> None:
    cfg = runner_cfg(
        make_cfg(regularizers=REGULARIZERS, decoder_constraint="unit_norm")
    )
    values = json.loads(json.dumps(cfg.to_dict()))
    again = LanguageModelSAERunnerConfig.from_dict(values)
    assert again.sae.regularizers == REGULARIZERS
    assert again.sae.to_dict() == cfg.sae.to_dict()
    assert json.loads(json.dumps(again.to_dict())) == values


def test_training_details_name_every_setting() -> None:
    cfg = make_cfg(regularizers=REGULARIZERS, init_seed=3)
    details = cfg.get_training_architecture_details()
    assert details["regularizers"] == [item.to_dict() for item in REGULARIZERS]
    assert details["init_seed"] == 3
    assert details["decoder_constraint"] == "none"
    assert details["aux_loss_coefficient"] == 1.0


def test_regularizer_without_build_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"must implement build\(\)"):
        sr.RegularizerConfig.build(SCHEDULED, None, label="x", seed=0)
