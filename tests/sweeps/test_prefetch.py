"""Computing ahead changes when passes are computed, never what is trained on."""

from __future__ import annotations

import threading

import pytest
import torch
from transformer_lens import HookedTransformer

from saereg_plugin.sweeps.prefetch import Prefetch
from saereg_plugin.sweeps.stream import ActivationStream, open_store
from tests.sweeps.tiny import D_IN, tiny_sweep


def open_stream(model: HookedTransformer, prefetch: int) -> ActivationStream:
    sweep = tiny_sweep()
    return ActivationStream(open_store(model, sweep, D_IN), sweep, prefetch=prefetch)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_results_come_in_the_order_of_the_calls(depth: int) -> None:
    numbers = iter(range(100))
    prefetch = Prefetch(lambda: next(numbers), depth)
    assert [prefetch.take() for _ in range(10)] == list(range(10))


def test_it_computes_as_far_ahead_as_told_and_no_further() -> None:
    calls: list[str] = []
    done = threading.Semaphore(0)

    def produce() -> None:
        calls.append(threading.current_thread().name)
        done.release()

    Prefetch(produce, 2).take()
    for _ in range(3):
        assert done.acquire(timeout=10)
    assert not done.acquire(timeout=0.1)
    assert len(calls) == 3
    assert all(name.startswith("prefetch") for name in calls)


def test_without_depth_the_caller_computes() -> None:
    assert Prefetch(threading.current_thread, 0).take() is threading.current_thread()


def test_an_error_is_raised_where_its_result_was_due() -> None:
    results = iter([1, 2])

    def produce() -> int:
        try:
            return next(results)
        except StopIteration:
            raise ValueError("text is at its end") from None

    prefetch = Prefetch(produce, 2)
    assert [prefetch.take(), prefetch.take()] == [1, 2]
    with pytest.raises(ValueError, match="text is at its end"):
        prefetch.take()


def test_batches_do_not_depend_on_it(model: HookedTransformer) -> None:
    plain, ahead = open_stream(model, 0), open_stream(model, 2)
    for _ in range(7):
        assert torch.equal(next(plain), next(ahead))
    assert ahead.seconds_per_token > 0


def test_resumes_where_it_was_although_it_had_read_ahead(
    model: HookedTransformer,
) -> None:
    whole, first = open_stream(model, 0), open_stream(model, 2)
    for _ in range(4):
        next(whole), next(first)
    resumed = open_stream(model, 1)
    resumed.load_state_dict(first.state_dict())
    for _ in range(6):
        assert torch.equal(next(whole), next(resumed))
