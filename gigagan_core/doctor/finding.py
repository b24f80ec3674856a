"""A finding, and how a list of checks is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gigagan_core.errors import GigaganError
from gigagan_core.text import plain

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """name: what was looked at. what: what was found, one sentence. mend: what to do about it; "" where all is well."""

    status: Status
    name: str
    what: str
    mend: str = ""


Check = Callable[[], Iterable[Finding]]


def ok(name: str, what: str) -> Finding:
    """All is well."""
    return Finding("ok", name, what)


def warn(name: str, what: str, mend: str) -> Finding:
    """Work can begin, and may suffer."""
    return Finding("warn", name, what, mend)


def fail(name: str, what: str, mend: str) -> Finding:
    """Work would end with an error."""
    return Finding("fail", name, what, mend)


def run(checks: Sequence[tuple[str, Check]]) -> Iterator[Finding]:
    """The findings of every check; one that raises is a finding itself, and the others go on."""
    for name, check in checks:
        try:
            yield from check()
        except GigaganError as error:
            yield fail(name, plain(error, 1000), "do as the sentence says")
        except Exception as error:  # a check looks at what may be broken in any way
            said = f"{type(error).__name__}: {plain(error)}"
            yield fail(
                name, f"could not be looked at ({said})", "mend that, or report it as a defect of ours"
            )
