"""Signals become requests, and the handlers from before come back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from saereg_plugin.sweeps.interruption import stop_on_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_first_signal_requests_and_the_second_interrupts(number: int) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as flag:
        assert not flag.requested
        os.kill(os.getpid(), number)
        assert flag.requested
        with pytest.raises(KeyboardInterrupt, match="second time"):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_terminal_that_hangs_up_twice_requests_once() -> None:
    # the suite itself may run under nohup
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with stop_on_signal() as flag:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGHUP)
                assert flag.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal() as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not flag.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="inside"), stop_on_signal():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with stop_on_signal() as flag:
            seen.extend([signal.getsignal(signal.SIGINT), flag.requested])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, False]
