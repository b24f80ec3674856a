"""How a command ends: its exit code, its one sentence, and what standard output holds.

0: the work is done. 1: it is not, and standard error says why in one sentence. 2: the command was
misspelt. 130 and 143: stopped by Ctrl-C or SIGTERM. With ``--json`` standard output carries one JSON
document and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import typer

from gigagan_core.errors import GigaganError
from gigagan_core.text import plain
from gigagan_core.tracking.process import sigterm_raises, was_stopped, was_terminated

INTERRUPTED, TERMINATED = 130, 143


class Answer:
    """What a command answers: one JSON-able document, written at its end, or `now`."""

    def __init__(self, write: Callable[[Any], None]):
        self._write = write
        self._document: Any = {}
        self._written = False

    def __call__(self, document: Any) -> None:
        """The answer, should nothing go wrong until the end of the block."""
        self._document = document

    def now(self, document: Any) -> None:
        """Write the answer at once; for a command that goes on serving."""
        self._write(document)
        self._written = True

    def finish(self, error: str | None = None) -> None:
        """Write what has not been written yet."""
        if not self._written:
            self.now(self._document if error is None else {"error": error})


@contextlib.contextmanager
def answering(as_json: bool = False) -> Iterator[Answer]:
    """The body of a command; yields the function that takes the answer.

    as_json: file descriptor 1 is redirected to standard error for the block (Ray forwards what its
    workers print, below Python's `sys.stdout`), and the document is written to the real one; after a
    failure that document is ``{"error": sentence}``. Without it the answer is not shown.
    """
    with _standard_output_kept_clean(as_json) as write:
        answer = Answer(write)
        try:
            with sigterm_raises():
                yield answer
        except BaseException as error:
            code = _end(error, answer)
            if code is None:  # a defect of ours, whose traceback follows
                raise
            raise typer.Exit(code) from None
        answer.finish()


def _end(error: BaseException, answer: Answer) -> int | None:
    """Say why the command did not do its work; gives the exit code, or None for a defect."""
    if isinstance(error, GigaganError):
        sentence = plain(error, limit=4000)
        _say(f"error: {sentence}")
        answer.finish(sentence)
        return 1
    if was_stopped(error):
        # Ray Train takes over Ctrl-C, ends its workers and leaves with `sys.exit`, which counts as such too.
        name, code = ("SIGTERM", TERMINATED) if was_terminated() else ("Ctrl-C", INTERRUPTED)
        _say(f"stopped by {name}; give the same command again and it continues where it was cut off")
        answer.finish(f"stopped by {name}")
        return code
    answer.finish(f"{type(error).__name__}: {plain(error, limit=4000)}")
    return None


def _say(sentence: str) -> None:
    print(f"gigagan: {sentence}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _standard_output_kept_clean(as_json: bool) -> Iterator[Callable[[Any], None]]:
    if not as_json:
        yield lambda document: None
        return
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)

    def write(document: Any) -> None:
        text = json.dumps(document, indent=2, ensure_ascii=True, default=str) + "\n"
        with open(os.dup(real), "w", encoding="utf-8") as output:
            output.write(text)

    try:
        yield write
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)
