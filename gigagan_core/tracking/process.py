"""Which process owns a record, and whether it still lives.

A process that is killed with -9 cannot close its MLflow runs. Every run therefore names its owner, so
that a later run on the same machine can close what a dead one left open.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator


class Terminated(BaseException):
    """SIGTERM arrived; not an `Exception`, so that nothing mistakes it for a failure of the work."""


def was_stopped(error: BaseException) -> bool:
    """Whether Ctrl-C or SIGTERM is behind an exception, also where C code made another one of it."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if not isinstance(link, Exception):
            return True
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    return False


def owner() -> str:
    """This process as ``host:pid:start``; the start time tells a reused pid from the first one."""
    return f"{socket.gethostname()}:{os.getpid()}:{start_time(os.getpid())}"


def is_dead(name: str) -> bool:
    """Whether the process that `owner` named has ended; False for another machine's, or no such name."""
    host, _, rest = name.partition(":")
    pid, _, started = rest.partition(":")
    return host == socket.gethostname() and pid.isdigit() and str(start_time(int(pid))) != started


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of `pid` (proc(5), field 22 of stat); None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The second field is the command's name in brackets, and may itself hold blanks and brackets.
            after_name = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, started = after_name[0], after_name[19]
    return None if state in "ZX" else int(started)


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated` in the main thread, so that records are closed on the way out.

    Leaves a handler alone that somebody else (Prefect's engine) has set, and does nothing in other
    threads, where handlers cannot be set.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def raise_terminated(_signal: int, _frame: object) -> None:
        raise Terminated("SIGTERM")

    signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def take_signals_back() -> None:
    """Install Python's handlers of SIGTERM and SIGINT again, after `ray.init` and after `ray.shutdown`.

    Ray's start puts a handler of its own (absl's failure handler) before them, which lets an alarm kill
    the process 3 seconds after a SIGTERM: too early for a training step to end and records to be closed.
    Its end resets SIGTERM to kill at once. Python is told of neither.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(number)
            if handler is not None:  # None: installed by something that is not Python
                signal.signal(number, handler)
