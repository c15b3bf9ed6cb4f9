"""Outputs recorded by hooks: other threads, and modules that work in place."""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn

from saereg_plugin.activations.extraction import outputs_at
from saereg_plugin.activations.module import ModuleSource
from saereg_plugin.activations.stream import Mixing


class Waiting(nn.Module):
    """Doubles its input; one thread waits inside until another has run the module."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.released = threading.Event(), threading.Event()
        self.waits: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if threading.get_ident() == self.waits:
            self.inside.set()
            assert self.released.wait(20)
        return x * 2


def test_a_pass_in_another_thread_is_neither_recorded_nor_stopped() -> None:
    waiting = Waiting()
    network = nn.Sequential(waiting, nn.Flatten())
    found: dict[str, Tensor] = {}

    def record() -> None:
        waiting.waits = threading.get_ident()
        found.update(outputs_at(network, ["0"], lambda: network(torch.ones(1, 2))))

    recording = threading.Thread(target=record)
    recording.start()
    assert waiting.inside.wait(20)
    assert network(torch.zeros(1, 2)).tolist() == [[0, 0]]
    waiting.released.set()
    recording.join()
    assert found["0"].tolist() == [[2, 2]]


def test_batches_computed_ahead_are_those_of_a_network_left_alone() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    source = ModuleSource(network, torch.randn(64, 3), point="1", inputs_per_pass=2)
    mixing = Mixing(batch_size=8, buffer_rows=32)
    alone = source.stream(mixing, prefetch=0)
    expected = [next(alone)["1"].clone() for _ in range(30)]
    ahead = source.stream(mixing, prefetch=2)
    for batch in expected:
        assert network(torch.zeros(1, 3)).shape == (1, 2)
        assert torch.equal(next(ahead)["1"], batch)
    ahead.close()


def test_outputs_that_the_next_module_overwrites_are_kept() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    data = torch.randn(20, 3)

    def rows(*points: str) -> Tensor:
        source = ModuleSource(network, data, point=points)
        return next(source.batches(20, point="0", buffer_rows=20, mixing_fraction=0))

    assert (rows("0") < 0).any()
    assert torch.equal(rows("0", "1"), rows("0"))
