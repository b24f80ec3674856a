"""Which process owns a record, and whether it still lives.

A process that is killed with -9 cannot close its MLflow runs. Every run therefore names its owner, so
that a later run on the same machine can close what a dead one left open.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import threading
from collections.abc import Iterator

# More than any Linux's struct sigaction; it is copied whole and never looked into.
_SIGACTION_BYTES = 1024


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived.

    Not an `Exception`, so that nothing mistakes it for a failure of the work; a `KeyboardInterrupt`, since
    Ray's C++ code drops any other exception that a signal handler raises while it waits.
    """


_told_to_stop = False
_blocks = 0
"""Of `sigterm_raises`, one within the other, that have a handler set."""


def was_terminated() -> bool:
    """Whether SIGTERM has arrived in the outermost `sigterm_raises` block, whatever became of its exception.

    After the block it stays so, until the next one begins.
    """
    return _told_to_stop


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
    """This process as ``host/namespace:pid:start``.

    The start time tells a reused pid from the first one. Two containers may have one host name, and neither sees the
    other's processes: each has a pid namespace of its own.
    """
    return f"{socket.gethostname()}/{_pid_namespace()}:{os.getpid()}:{start_time(os.getpid())}"


def is_dead(name: str) -> bool:
    """Whether the process that `owner` named has ended; False for one that this process could not see."""
    return _still_there(name) is False


def is_alive(name: str) -> bool:
    """Whether the process that `owner` named lives; False for one that this process could not see."""
    return _still_there(name) is True


def _still_there(name: str) -> bool | None:
    place, _, rest = name.partition(":")
    host, _, namespace = place.partition("/")
    pid, _, started = rest.partition(":")
    if host != socket.gethostname() or namespace not in ("", _pid_namespace()) or not pid.isdigit():
        return None
    return str(start_time(int(pid))) == started


def _pid_namespace() -> str:
    """Number of this process's pid namespace (pid_namespaces(7)); empty where /proc does not tell."""
    try:
        return os.readlink("/proc/self/ns/pid").partition("[")[2].rstrip("]")
    except OSError:
        return ""


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
def sigterm_raises(replacing: bool = False) -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated` in the main thread, so that records are closed on the way out.

    replacing: also where somebody else has set a handler (Prefect's engine has, and raises what Ray drops);
    that handler is called at the end of the block. Does nothing in other threads, where handlers cannot be
    set.
    """
    global _told_to_stop, _blocks
    previous = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or (previous is not signal.SIG_DFL and not replacing):
        yield
        return
    arrived: list[int] = []
    if _blocks == 0:
        _told_to_stop = False

    def raise_terminated(number: int, _frame: object) -> None:
        global _told_to_stop
        _told_to_stop = True
        arrived.append(number)
        raise Terminated("SIGTERM")

    signal.signal(signal.SIGTERM, raise_terminated)
    _blocks += 1
    try:
        yield
        if arrived:  # some C code dropped the exception
            raise Terminated("SIGTERM")
    finally:
        _blocks -= 1
        signal.signal(signal.SIGTERM, previous)
        if arrived and callable(previous):
            previous(signal.SIGTERM, None)


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Restore, at the end of the block, the system's handlers of SIGTERM and SIGINT; from any thread.

    `ray.init` puts a handler of its own (absl's failure handler) before Python's, which lets an alarm kill
    the process 3 seconds after a SIGTERM: too early for a training step to end and records to be closed.
    `ray.shutdown` resets SIGTERM to kill at once. Python is told of neither, and could only mend it from
    the main thread; hence sigaction(2).
    """
    system = ctypes.CDLL(None)
    saved = {
        number: ctypes.create_string_buffer(_SIGACTION_BYTES) for number in (signal.SIGTERM, signal.SIGINT)
    }
    for number, action in saved.items():
        system.sigaction(int(number), None, action)
    try:
        yield
    finally:
        for number, action in saved.items():
            system.sigaction(int(number), action, None)


@contextlib.contextmanager
def interrupts_kept() -> Iterator[None]:
    """Restore Python's handler of Ctrl-C at the end of the block: Ray Train leaves one that calls its dead actor."""
    previous = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and previous is not None:
            signal.signal(signal.SIGINT, previous)
