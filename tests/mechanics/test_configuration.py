"""Mechanic configurations: what is refused, and what survives a round trip."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from sae_lens import LanguageModelSAERunnerConfig, TrainingSAE, TrainingSAEConfig
from sae_lens.llm_sae_training_runner import _parse_cfg_args
from typing_extensions import override

import saereg_plugin as sr
from saereg_plugin.registry import MECHANICS
from tests.training import ARCHITECTURES, build, make_cfg, runner_cfg

MECHANICS_OF_ALL = [
    sr.DeadLatentResampling(every=7, until=70, then_every=9, stop=100, norm=1.0),
    sr.ActivationRateScaling(decay=0.9, most=5.0),
    sr.GradientClipping(max_norm=0.25),
    sr.WeightDecay(decay=0.02, target="encoder"),
    sr.WeightEma(decay=0.99),
]
"""All that combine; ``frozen_core`` refuses resampling."""
JSON_CLIPPING = '{"name": "gradient_clipping", "max_norm": 0.25}'


def mechanics_for(architecture: str) -> list[sr.MechanicConfig]:
    annealing = [sr.KAnnealing(steps=9)] if "topk" in architecture else []
    return [*MECHANICS_OF_ALL, *annealing]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"name": "gradient_cliping"},
            "Unknown mechanic 'gradient_cliping'. Did you mean 'gradient_clipping'?",
        ),
        (
            {"name": "resampling", "evry": 3},
            "Mechanic 'resampling' has no field 'evry'. Did you mean 'every'?",
        ),
        ({"max_norm": 0.1}, "Mechanic {'max_norm': 0.1} has no name; expected for ex"),
        ("weight_decay", "Mechanic 'weight_decay' is not JSON"),
        (3, "Mechanic 3 has no name"),
        ({"name": "gradient_clipping", "max_norm": 3}, "max_norm is 3; expected"),
    ],
)
def test_bad_mechanic_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(sr.InputError, match=message):
        make_cfg(mechanics=[value])


def test_each_mechanic_at_most_once() -> None:
    twice = [sr.WeightDecay(), sr.GradientClipping(), sr.WeightDecay(decay=0.5)]
    with pytest.raises(
        sr.InputError,
        match="The mechanic 'weight_decay' is given 2 times; expected once at most",
    ):
        make_cfg(mechanics=twice)


def test_regulariser_cannot_take_a_mechanics_name() -> None:
    penalty = sr.WeightPenalty(label="resampling")
    with pytest.raises(sr.InputError, match="label='resampling' is taken"):
        make_cfg(regularizers=[penalty])


def test_dictionary_json_and_object_are_the_same() -> None:
    for mechanic in mechanics_for("topk"):
        values = mechanic.to_dict()
        assert next(iter(values)) == "name"
        for given in (mechanic, values, json.dumps(values)):
            assert make_cfg(mechanics=[given]).mechanics == [mechanic]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_configuration_survives_json(architecture: str) -> None:
    mechanics = mechanics_for(architecture)
    cfg = make_cfg(
        architecture,
        mechanics=mechanics,
        regularizers=[sr.WeightPenalty(coefficient=0.1)],
        decoder_constraint="unit_norm",
    )
    values = json.loads(json.dumps(cfg.to_dict(), allow_nan=False))
    again = TrainingSAEConfig.from_dict(values)
    assert type(again) is type(cfg)
    assert again.mechanics == mechanics  # type: ignore[attr-defined]
    assert again.to_dict() == cfg.to_dict()
    sae = TrainingSAE.from_dict(values)
    labels = list(sae.components)  # type: ignore[arg-type]
    assert labels == [
        "weight_penalty",
        *(["k_annealing"] if "topk" in architecture else []),
        "activation_rate_scaling",
        "gradient_clipping",
        "weight_decay",
        "unit_norm",
        "resampling",
        "weight_ema",
    ]


def test_runner_configuration_and_details_name_them() -> None:
    cfg = runner_cfg(make_cfg(mechanics=MECHANICS_OF_ALL, auxk_scaling="sparsify"))
    values = json.loads(json.dumps(cfg.to_dict()))
    again = LanguageModelSAERunnerConfig.from_dict(values)
    assert again.sae.mechanics == MECHANICS_OF_ALL
    assert json.loads(json.dumps(again.to_dict())) == values
    details = cfg.sae.get_training_architecture_details()
    assert details["mechanics"] == [item.to_dict() for item in MECHANICS_OF_ALL]
    assert details["auxk_scaling"] == "sparsify"


def test_order_in_the_list_means_nothing() -> None:
    orders = [MECHANICS_OF_ALL, MECHANICS_OF_ALL[::-1]]
    saes = [build(make_cfg(mechanics=order, init_seed=2)) for order in orders]
    assert list(saes[0].components) == list(saes[1].components)
    seeds = [sae.components["resampling"].generator.initial_seed() for sae in saes]
    assert seeds[0] == seeds[1]


def parse(*arguments: str) -> Any:
    return _parse_cfg_args(["--architecture", "regularized_topk", *arguments]).sae


def test_command_line_takes_json_objects() -> None:
    sae = parse(
        *("--mechanics", JSON_CLIPPING, '{"name": "k_annealing", "steps": 30}'),
        *("--regularizers", '{"name": "weight_penalty"}', "--auxk_scaling", "openai"),
    )
    assert sae.mechanics == [
        sr.GradientClipping(max_norm=0.25),
        sr.KAnnealing(steps=30),
    ]
    assert sae.regularizers == [sr.WeightPenalty()]
    assert sae.auxk_scaling == "openai"
    assert parse().mechanics == []


@pytest.mark.parametrize(
    ("mechanic", "message"),
    [
        ('{"name": "resamplin"}', "Did you mean 'resampling'"),
        ("resampling", "is not JSON"),
        ('{"name": "weight_decay", "decay": -1}', "a finite number, 0 or more"),
    ],
)
def test_bad_mechanic_is_an_argument_error(mechanic: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentError, match=message):
        parse("--mechanics", mechanic)


@dataclass(frozen=True, kw_only=True)
class Throwaway(sr.MechanicConfig):
    flag: bool = False


@dataclass(frozen=True, kw_only=True)
class Thief(sr.MechanicConfig):
    pass


def test_third_partys_mechanic_is_known_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "test_throwaway_mechanic"
    monkeypatch.setitem(MECHANICS, name, Throwaway)
    assert sr.register_mechanic(name)(Throwaway) is Throwaway
    assert Throwaway.name == name
    cfg = make_cfg(mechanics=[{"name": Throwaway.name, "flag": True}])
    assert cfg.mechanics == [Throwaway(flag=True)]
    with pytest.raises(
        NotImplementedError, match=r"Throwaway must implement build\(\)"
    ):
        build(cfg)


def test_taken_name_is_refused() -> None:
    with pytest.raises(
        sr.InputError,
        match=r"A mechanic named 'weight_decay' is registered already \(WeightDecay\)",
    ):
        sr.register_mechanic("weight_decay")(Thief)
    assert MECHANICS["weight_decay"] is sr.WeightDecay


def test_mechanic_sees_the_configuration_it_is_checked_against() -> None:
    seen: list[Any] = []

    @dataclass(frozen=True, kw_only=True)
    class Curious(sr.MechanicConfig):
        name: ClassVar[str] = "test_curious"

        @override
        def check(self, sae_cfg: Any) -> None:
            seen.append(sae_cfg)

    cfg = make_cfg(mechanics=[Curious()])
    assert len(seen) == 1
    assert seen[0] is cfg
