"""The one exception a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GigaganError(Exception):
    """Something the user can mend; the message says what, where and how, in one sentence.

    The command line prints the message alone and exits with 1. Any other exception is a defect of
    ours and keeps its traceback.
    """


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest valid one, then all of them.

    Returns text to append to a sentence, e.g. ``did you mean 'seed'? (valid: batch_size, seed)``.
    """
    choices = sorted(valid)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    listed = ", ".join(choices)
    return f"did you mean {close[0]!r}? (valid: {listed})" if close else f"valid: {listed}"
