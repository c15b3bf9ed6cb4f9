"""Computing ahead changes when passes are computed, never what is trained on."""

from __future__ import annotations

import threading

import pytest
import torch
from transformer_lens import HookedTransformer

from saereg_plugin.activations.stream import ActivationStream, Prefetch
from tests.sweeps import tiny
from tests.sweeps.tiny import batch_of, tiny_sweep


def open_stream(model: HookedTransformer, prefetch: int) -> ActivationStream:
    return tiny.open_stream(model, tiny_sweep(), prefetch=prefetch)


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
    # one after the other: two threads must not run hooks on one model at once
    plain = open_stream(model, 0)
    expected = [batch_of(plain) for _ in range(7)]
    ahead = open_stream(model, 2)
    for batch in expected:
        assert torch.equal(batch_of(ahead), batch)
    assert ahead.seconds_per_row > 0
    ahead.close()


def test_resumes_where_it_was_although_it_had_read_ahead(
    model: HookedTransformer,
) -> None:
    whole = open_stream(model, 0)
    expected = [batch_of(whole) for _ in range(10)][4:]
    first = open_stream(model, 2)
    for _ in range(4):
        batch_of(first)
    state = first.state_dict()
    first.close()
    resumed = open_stream(model, 1)
    resumed.load_state_dict(state)
    for batch in expected:
        assert torch.equal(batch_of(resumed), batch)
    resumed.close()


def test_closing_waits_for_what_is_being_computed() -> None:
    running = threading.Event()
    release = threading.Event()

    def produce() -> int:
        running.set()
        assert release.wait(10)
        return 1

    prefetch = Prefetch(produce, 1)
    threading.Thread(target=prefetch.take, daemon=True).start()
    assert running.wait(10)
    threading.Timer(0.2, release.set).start()
    prefetch.close()
    assert release.is_set()
