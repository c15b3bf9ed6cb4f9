"""Registration with SAELens, once and after a second import."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY, get_sae_training_class
from typing_extensions import override

import saereg_plugin as sr
from saereg_plugin.registry import ARCHITECTURES as REGISTERED
from saereg_plugin.registry import (
    DEFAULTS,
    REGULARIZERS,
    acts,
    decays,
    defaults_text,
    regularizer_defaults,
    training_classes,
)
from tests.forked import forked
from tests.training import ARCHITECTURES, make_trainer, run_steps

pytestmark = pytest.mark.slow


def test_every_architecture_is_in_saelens_registry() -> None:
    assert set(REGISTERED) == {f"regularized_{name}" for name in ARCHITECTURES}
    for name in ARCHITECTURES:
        sae_class, cfg_class = get_sae_training_class(f"regularized_{name}")
        stock_class, stock_cfg = get_sae_training_class(name)
        assert issubclass(sae_class, (stock_class)) and sae_class is not stock_class
        assert issubclass(cfg_class, stock_cfg)
        assert issubclass(sae_class, sr.RegularizedMixin)
        assert cfg_class.architecture() == f"regularized_{name}"


def test_registering_again_replaces_the_own_entry() -> None:
    entry = (sr.RegularizedTopKTrainingSAE, sr.RegularizedTopKTrainingSAEConfig)
    sr.register_architecture(*entry)
    assert SAE_TRAINING_CLASS_REGISTRY["regularized_topk"] == entry


def test_a_name_of_saelens_is_refused() -> None:
    @dataclass
    class StolenName(TopKTrainingSAEConfig):
        @override
        @classmethod
        def architecture(cls) -> str:
            return "topk"

    class Thief(TopKTrainingSAE):
        pass

    with pytest.raises(
        sr.InputError, match="SAELens has an architecture named 'topk' already"
    ):
        sr.register_architecture(Thief, StolenName)
    assert SAE_TRAINING_CLASS_REGISTRY["topk"][0] is TopKTrainingSAE


def test_unknown_architecture_suggests_the_nearest() -> None:
    with pytest.raises(
        sr.InputError, match="'regularised_topk'. Did you mean 'regularized_topk'"
    ):
        training_classes("regularised_topk")


def test_the_stored_defaults_are_those_of_the_classes() -> None:
    """Otherwise run ``saereg-bench schemas --write``."""
    assert DEFAULTS.read_text(encoding="utf-8") == defaults_text()
    assert regularizer_defaults("no_such_name") == {}


def test_defaults_of_others_are_read_from_their_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Own(sr.RegularizerConfig):
        coefficient: float = 0.5

    monkeypatch.setitem(REGULARIZERS, "an_own_one", Own)
    assert regularizer_defaults("an_own_one")["coefficient"] == 0.5
    assert acts({"name": "an_own_one"})
    assert not acts({"name": "an_own_one", "coefficient": 0})


def test_decay_acts_unless_it_is_0() -> None:
    decay = sr.WeightDecay()
    assert decay.decay != 0 and decays({"name": decay.name})
    assert decays(decay.to_dict())
    assert not decays({"name": decay.name, "decay": 0})
    assert not decays({"name": "resampling"})


def test_importing_twice_is_harmless() -> None:
    assert forked(import_twice) == "harmless"


def import_twice() -> str:
    """Train before and after a second import, with the classes of both."""
    once = train(sr)
    early = sr.RegularizedTopKTrainingSAE
    for name in [name for name in sys.modules if name.split(".")[0] == "saereg_plugin"]:
        del sys.modules[name]
    second = import_module("saereg_plugin")
    assert second is not sr and second.RegularizedTopKTrainingSAE is not early
    for name, (sae_class, cfg_class) in SAE_TRAINING_CLASS_REGISTRY.items():
        if name.startswith("regularized_"):
            assert sae_class is getattr(second, sae_class.__name__), name
            assert cfg_class is getattr(second, cfg_class.__name__), name
    for package in (second, sr):
        again = train(package)
        assert type(again) is package.RegularizedTopKTrainingSAE
        assert again.step_index == 5, again.step_index
        for name, parameter in once.named_parameters():
            assert torch.equal(again.get_parameter(name), parameter), name
    return "harmless"


def train(package: Any) -> Any:
    torch.manual_seed(0)
    penalty = sr.WeightPenalty(coefficient=30.0, mode="decoupled", target="encoder")
    cfg = package.RegularizedTopKTrainingSAEConfig(
        d_in=12,
        d_sae=24,
        k=4,
        regularizers=[penalty.to_dict()],
        decoder_constraint="unit_norm",
    )
    sae = package.RegularizedTopKTrainingSAE(cfg)
    data = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    run_steps(make_trainer(sae, iter(data.split(20)), batch_size=20), 5)
    return sae
