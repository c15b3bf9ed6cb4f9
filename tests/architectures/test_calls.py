"""Components that misbehave are named, in the first step or when their loss begins to act."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from typing_extensions import override

import saereg_plugin as sr
from tests.training import batches, forward, make_sae, make_trainer, run_steps


@dataclass(frozen=True, kw_only=True)
class Wayward(sr.RegularizerConfig):
    """Returns from ``loss`` what ``value`` makes of a proper loss."""

    name: ClassVar[str] = "test_wayward"

    value: Callable[[torch.Tensor], Any] = torch.clone
    in_loss: bool = True
    prepares: Any = None

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> WaywardModule:
        return WaywardModule(self, label=label)


class WaywardModule(sr.Component):
    def __init__(self, cfg: Wayward, *, label: str):
        super().__init__(label=label)
        self.cfg = cfg
        self.in_loss = cfg.in_loss

    @override
    def prepare(self, sae_in: torch.Tensor) -> Any:
        return sae_in if self.cfg.prepares is None else self.cfg.prepares(sae_in)

    @override
    def loss(self, step: sr.Step) -> Any:
        coefficient = self.cfg.schedule.value(self.cfg.coefficient, step.index)
        return self.cfg.value(coefficient * step.sae.W_enc.square().mean())


class ActingModule(WaywardModule):
    """Acts by itself: its loss needs no gradients."""

    @override
    def gradient(self, name: str, parameter: torch.nn.Parameter) -> None:
        return None


class Acting(Wayward):
    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> ActingModule:
        return ActingModule(self, label=label)


def divide(value: torch.Tensor) -> Any:
    return value / (1 // 0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda v: v.expand(3), r"returned a tensor of shape \(3,\) and dtype float32"),
        (lambda v: v[None], r"returned a tensor of shape \(1,\)"),
        (lambda v: v.to(torch.complex64), "and dtype complex64; expected a scalar"),
        (lambda v: v.detach().long(), "and dtype int64"),
        (
            lambda v: float(v.detach()),
            r"returned the float [0-9.e-]+; expected a scalar tensor",
        ),
        (lambda _: "much", "returned the str 'much'"),
        (lambda v: v * float("nan"), "returned nan in the first step"),
        (lambda v: v.detach(), "returned a value without gradients"),
        (divide, r"raised ZeroDivisionError \(.*\) in .*test_calls\.py, line [0-9]+"),
    ],
)
@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_what_a_regularizer_returned_is_named(
    architecture: str,
    value: Callable[[torch.Tensor], Any],
    words: str,
    activations: torch.Tensor,
) -> None:
    bad = Wayward(coefficient=0.1, value=value, label="mine")
    sae = make_sae(architecture, regularizers=[sr.WeightPenalty(), bad])
    with pytest.raises(
        sr.InputError, match=rf"^mine: WaywardModule\.loss\(\) .*{words}"
    ):
        forward(sae, activations[:8])


@pytest.mark.parametrize(
    "fields",
    [
        {"coefficient": 0.0},
        {"value": lambda v: (0 * v).detach(), "coefficient": 0.1},
        {"in_loss": False, "coefficient": 0.1},
    ],
)
def test_a_detached_loss_that_should_not_act_is_allowed(
    fields: dict[str, Any], activations: torch.Tensor
) -> None:
    regularizer = Wayward(**{"value": torch.Tensor.detach, **fields})
    forward(make_sae(regularizers=[regularizer]), activations[:8])


def test_a_component_that_changes_gradients_itself_may_detach(
    activations: torch.Tensor,
) -> None:
    regularizer = Acting(coefficient=0.1, value=torch.Tensor.detach)
    forward(make_sae(regularizers=[regularizer]), activations[:8])


def test_a_detached_loss_is_found_when_its_schedule_begins(
    activations: torch.Tensor,
) -> None:
    late = Wayward(
        coefficient=0.1,
        value=torch.Tensor.detach,
        schedule=sr.Schedule(warm_up_steps=4),
    )
    trainer = make_trainer(make_sae(regularizers=[late]), batches(activations))
    run_steps(trainer, 1)
    with pytest.raises(sr.InputError, match="test_wayward: .*without gradients"):
        run_steps(trainer, 1)


@pytest.mark.parametrize(
    ("prepares", "words"),
    [
        (lambda x: x[:, :3], r"prepare\(\) returned \(8, 3\); expected rows"),
        (lambda _: "rows", r"prepare\(\) returned 'rows'; expected rows"),
        (divide, r"prepare\(\) raised ZeroDivisionError"),
    ],
)
def test_rows_that_are_none_are_named(
    prepares: Any, words: str, activations: torch.Tensor
) -> None:
    sae = make_sae(regularizers=[Wayward(prepares=prepares)])
    with pytest.raises(sr.InputError, match=words):
        forward(sae, activations[:8])


def test_a_step_that_is_not_finite_by_itself_is_not_blamed_on_a_regularizer(
    activations: torch.Tensor,
) -> None:
    sae = make_sae(regularizers=[Wayward(coefficient=0.1)])
    rows = activations[:8].clone()
    rows[0] = float("nan")
    with torch.no_grad():
        sae.W_enc.fill_(float("nan"))
    assert not forward(sae, rows).loss.isfinite()


def test_want_of_memory_stays_what_it_is(activations: torch.Tensor) -> None:
    def full(_: torch.Tensor) -> Any:
        raise MemoryError("full")

    sae = make_sae(regularizers=[Wayward(value=full)])
    with pytest.raises(MemoryError, match="full"):
        forward(sae, activations[:8])
