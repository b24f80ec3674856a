"""What a person sees in the terminal: messages and progress bars, all on standard error.

Standard output belongs to `--json`. Where standard error is not a terminal (CI, a log file, a Prefect
worker), a bar becomes a plain line every few seconds.

Whoever listens (`heard_by`) gets every line as plain text: the log of a stage, the log of a flow run.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from gigagan_core.text import plain

PLAIN_LINE_EVERY_SECONDS = 10.0

_console: Console | None = None
_listeners: list[Callable[[str], None]] = []


def console() -> Console:
    """The console on standard error; looked up late, so that a redirected `sys.stderr` is honoured."""
    global _console
    if _console is None or _console.file is not sys.stderr:
        _console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    return _console


def outlive_reader() -> None:
    """From now on this process goes on when nobody reads its output any more; rich's consoles would end it.

    For flow runs, whose output goes through a pipe to the worker that has started them and may be killed.
    """
    Console.on_broken_pipe = _discard_output


def _discard_output(_: Console) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    os.close(nowhere)


def note(message: str) -> None:
    """One line of information; `message` is plain text, never markup."""
    console().print(f"[dim]·[/dim] {escape(message)}")
    tell(message)


def warn(message: str) -> None:
    """One line that must not be missed; plain text."""
    console().print(f"[bold yellow]warning:[/bold yellow] {escape(message)}")
    tell(f"warning: {message}")


def heading(message: str) -> None:
    """The start of a stage; plain text."""
    console().print(f"[bold]{escape(message)}[/bold]")
    tell(message)


def relay(line: str) -> None:
    """A line of another process, such as a job's: shown as it is, and heard."""
    console().print(f"[dim]{escape(line)}[/dim]")
    tell(line)


def tell(line: str) -> None:
    """A line for those who listen, and not for the terminal; made harmless for logs, since workers repeat captions."""
    harmless = plain(line, limit=4000)
    for listener in tuple(_listeners):
        listener(harmless)


@contextlib.contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
    """Inside, `listener` gets every line of this process, from whatever thread."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextlib.contextmanager
def copied_to(log: Path) -> Iterator[None]:
    """Inside, every line goes into a file too, each with its time; what is there stays."""
    with (
        open(log, "a", encoding="utf-8", buffering=1, errors="replace") as file,
        heard_by(_Timed(file.write)),
    ):
        yield


class _Timed:
    """Lines with the time in front. A disk that is full must end the work, and not a line about it."""

    def __init__(self, write: Callable[[str], object]):
        self._write = write

    def __call__(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed, and a thread still speaks
            self._write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")


class _Rate(ProgressColumn):
    """Work a second over the whole task, in the task's own unit."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text(f"{rate:,.1f} {task.fields['unit']}/s" if rate else "", style="cyan")


class Bar:
    """One progress bar; made by `progress`."""

    def __init__(self, description: str, total: float | None, unit: str, live: Progress | None):
        self._description, self._total, self._unit, self._live = description, total, unit, live
        self._done = 0.0
        self._shown: dict[str, object] = {}
        self._started = self._last_line = time.monotonic()
        self._resumed_at = 0.0
        self._task = live.add_task(escape(description), total=total, unit=unit, shown="") if live else None

    def start_from(self, done: float) -> None:
        """`done` units are done in all, those since the last word by an earlier run: they count in no rate."""
        self._resumed_at += done - self._done
        self._done = done
        if self._live:
            self._live.reset(self._task, completed=int(done), unit=self._unit, shown="")

    def advance(self, amount: float = 1, **shown: object) -> None:
        """`amount` more units are done; `shown` are figures for the end of the line."""
        self.set(self._done + amount, **shown)

    def set(self, done: float, **shown: object) -> None:
        """`done` units are done in all."""
        self._done = done
        self._shown.update(shown)
        if self._live:
            self._live.update(self._task, completed=done, shown=escape(self._figures()))
        if time.monotonic() - self._last_line >= PLAIN_LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            line = self._line()
            if not self._live:
                console().print(escape(line))
            tell(line)

    def finish(self) -> None:
        """The last plain line, so that a log always shows how the work ended."""
        line = self._line()
        if not self._live:
            console().print(escape(line))
        tell(line)

    def _figures(self) -> str:
        return "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self._shown.items()
        )

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self._done - self._resumed_at) / seconds
        total = f"/{self._total:,.0f}" if self._total else ""
        left = ""
        if self._total and rate > 0 and self._done < self._total:
            left = f", {(self._total - self._done) / rate:.0f} s left"
        figures = self._figures()
        return f"{self._description}: {self._done:,.0f}{total} {self._unit}, {rate:,.1f}/s{left}" + (
            f"  {figures}" if figures else ""
        )


@contextlib.contextmanager
def progress(description: str, total: float | None, unit: str) -> Iterator[Bar]:
    """A progress bar with rate and time left.

    description: what is being done, plain text. total: units in all, or None where unknown.
    unit: what is counted, e.g. "images".
    """
    screen = console()
    if not screen.is_terminal:
        bar = Bar(description, total, unit, live=None)
        try:
            yield bar
        finally:
            bar.finish()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}", style="dim"),
    )
    with Progress(*columns, console=screen) as live:
        bar = Bar(description, total, unit, live)
        try:
            yield bar
        finally:
            bar.finish()
