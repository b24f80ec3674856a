"""SIGTERM and Ctrl-C end the work in order, whoever else has set handlers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from gigagan_core.tracking.process import (
    Terminated,
    interrupts_kept,
    is_dead,
    owner,
    signals_kept,
    sigterm_raises,
    was_stopped,
    was_terminated,
)


@pytest.fixture(autouse=True)
def _handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class EnginesSignal(BaseException):
    """What another program's handler raises."""


def engines_handler(_number: int, _frame: object) -> None:
    raise EnginesSignal


def test_sigterm_is_raised_and_the_default_comes_back() -> None:
    with pytest.raises(Terminated), sigterm_raises():
        terminate()
    assert was_terminated()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with sigterm_raises():
        assert not was_terminated()


def test_anothers_handler_is_left_alone_or_called_at_the_end() -> None:
    signal.signal(signal.SIGTERM, engines_handler)
    with pytest.raises(EnginesSignal), sigterm_raises():
        terminate()
    seen: list[BaseException] = []

    def work() -> None:
        try:
            terminate()
        except BaseException as error:
            seen.append(error)
            raise

    with pytest.raises(EnginesSignal) as raised, sigterm_raises(replacing=True):
        work()
    # The work saw what Ray passes on; the engine then got the signal it waits for.
    assert isinstance(seen[0], Terminated)
    assert isinstance(seen[0], KeyboardInterrupt)
    assert was_stopped(raised.value)
    assert signal.getsignal(signal.SIGTERM) is engines_handler


def test_a_block_that_replaces_a_handler_begins_anew_and_one_within_another_does_not() -> None:
    with pytest.raises(Terminated), sigterm_raises():
        terminate()
    signal.signal(signal.SIGTERM, engines_handler)
    told: list[bool] = []

    def work() -> None:
        told.append(was_terminated())
        with contextlib.suppress(Terminated):
            terminate()
        with sigterm_raises(replacing=True):
            told.append(was_terminated())

    with pytest.raises(EnginesSignal), sigterm_raises(replacing=True):
        work()
    assert told == [False, True]


def test_a_sigterm_whose_exception_was_dropped_is_raised_at_the_end() -> None:
    def drop() -> None:
        try:
            terminate()
        except KeyboardInterrupt:
            pass

    with pytest.raises(Terminated), sigterm_raises():
        drop()


def test_another_thread_is_left_alone() -> None:
    entered = []

    def work() -> None:
        with sigterm_raises(), interrupts_kept():
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [signal.SIG_DFL]


def test_a_handler_that_c_code_replaced_is_restored_from_any_thread() -> None:
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))

    def replace_it_unknown_to_python() -> None:
        with signals_kept():
            system = ctypes.CDLL(None)
            system.signal.restype = ctypes.c_void_p
            system.signal(int(signal.SIGTERM), ctypes.c_void_p(1))  # SIG_IGN
            terminate()
            assert heard == []

    thread = threading.Thread(target=replace_it_unknown_to_python)
    thread.start()
    thread.join()
    terminate()
    assert heard == [signal.SIGTERM]


def test_ctrl_c_is_ours_again_after_a_stage_took_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts_kept():
        signal.signal(signal.SIGINT, engines_handler)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stop_is_told_from_a_failure_through_what_c_code_makes_of_it() -> None:
    garbled = SystemError("returned a result with an exception set")
    garbled.__context__ = Terminated("SIGTERM")
    assert was_stopped(garbled)
    assert was_stopped(KeyboardInterrupt())
    assert was_stopped(SystemExit(0))
    failure = ValueError("bad")
    failure.__cause__ = failure.__context__ = OSError("worse")
    assert not was_stopped(failure)


def test_an_owner_is_dead_only_when_that_very_process_of_this_machine_is_gone() -> None:
    host, pid, started = owner().split(":")
    assert not is_dead(owner())
    assert is_dead(f"{host}:{pid}:{int(started) + 1}")
    assert not is_dead(f"elsewhere:{pid}:1")
    assert not is_dead("")
    assert not is_dead(f"{host}:x:1")
