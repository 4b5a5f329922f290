"""Signals that ask a loop to end: noted, heeded when all is saved, and left to who had them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from dmcp_deploy.errors import Interrupted
from dmcp_deploy.machine.signals import SIGNALS, leave_signals_to_parent
from dmcp_deploy.training.interrupt import Signals, caught_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_waits_until_it_is_heeded(number, code):
    with pytest.raises(Interrupted) as caught, caught_signals() as signals:
        heed_one(signals, number)
    assert caught.value.code == code
    assert caught.value.name == signal.Signals(number).name
    assert signal.getsignal(number) is signal.SIG_DFL


def heed_one(signals: Signals, number: int) -> None:
    signals.heed()
    assert not signals.waiting
    signal.raise_signal(number)
    assert signals.waiting
    signals.heed()


def test_a_signal_of_the_last_moment_is_not_lost():
    with pytest.raises(Interrupted), caught_signals():
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_is_not_lost_where_the_work_fails():
    with pytest.raises(Interrupted) as caught, caught_signals():
        fail_with_a_signal()
    assert isinstance(caught.value.__context__, KeyError)


def fail_with_a_signal() -> None:
    signal.raise_signal(signal.SIGTERM)
    raise KeyError


def test_a_handler_that_was_there_is_called_and_the_work_goes_on():
    seen: list[int] = []

    def handler(number: int, frame: object) -> None:
        seen.append(number)

    signal.signal(signal.SIGTERM, handler)
    with caught_signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert not seen
        signals.heed()
        assert seen == [signal.SIGTERM]
        assert not signals.waiting
    assert seen == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_signal_that_is_ignored_stays_so():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with caught_signals() as signals:
        signal.raise_signal(signal.SIGUSR1)
        assert not signals.waiting
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


def test_outside_of_the_main_thread_nothing_is_caught():
    found: list[object] = []

    def work() -> None:
        with caught_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


def test_workers_leave_signals_to_their_parent():
    leave_signals_to_parent()
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}
