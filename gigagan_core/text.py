"""Strangers' text made safe to show: captions and file names come from the open web.

A caption is kept byte for byte in the data. It is made harmless only where it is shown, by the
function of the place it is shown in.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

# CSI and OSC sequences, whole, so that no "[31m" debris is left behind; single controls go below.
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]")
# Cc: controls; Cf: bidirectional overrides and zero-width marks that reorder or hide text;
# Cs: lone surrogates, which no terminal can encode; Zl, Zp: line ends outside ASCII.
_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$&:])")


def lines(text: str) -> list[str]:
    """The lines of a file read as text: ended by a newline alone.

    `str.splitlines` also ends them at the separators that captions of the open web hold, such as U+2028 and U+0085.
    """
    found = text.split("\n")
    return found if found[-1] else found[:-1]


def some_of(names: Sequence[str], shown: int = 5) -> str:
    """How many names there are, and the first of them: "7 (a, b, c, d, e, ...)"."""
    rest = ", ..." if len(names) > shown else ""
    return f"{len(names)} ({', '.join(plain(name, 80) for name in names[:shown])}{rest})"


def plain(text: object, limit: int = 300) -> str:
    """One line of visible characters: no escape sequence, control or bidirectional mark.

    limit: characters kept; a longer text ends in an ellipsis.
    """
    without_ansi = _ANSI.sub("", str(text))
    visible = "".join(
        " " if character in "\t\n\r" else character
        for character in without_ansi
        if character in "\t\n\r" or unicodedata.category(character) not in _HIDDEN_CATEGORIES
    )
    line = " ".join(visible.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def without_password(uri: str) -> str:
    """An address as it may be shown: without the name and the password that may stand before its host."""
    return re.sub(r"(?<=://)[^/?#]*@", "", uri)


def for_terminal(text: object, limit: int = 300) -> str:
    """For the terminal and logs: `plain`, with rich's markup brackets escaped."""
    return re.sub(r"(\\*)(\[[a-zA-Z/@#][^\[]*?\])", r"\1\1\\\2", plain(text, limit))


def for_markdown(text: object, limit: int = 300) -> str:
    """For Prefect's and MLflow's Markdown, table cells included: no markup, link or HTML survives."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", plain(text, limit).replace("<", "‹").replace(">", "›"))


def for_html(text: object, limit: int = 300) -> str:
    """For HTML text and quoted attributes."""
    return html.escape(plain(text, limit), quote=True)
