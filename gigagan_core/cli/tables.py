"""Tables on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers_from: int | None = None
) -> None:
    """Cells are plain text. numbers_from: the first column whose cells stand to the right."""
    from rich.console import Console
    from rich.table import Table

    from gigagan_core.text import for_terminal

    table = Table(*(for_terminal(column) for column in columns), box=None, pad_edge=False)
    for column in table.columns[numbers_from:] if numbers_from is not None else ():
        column.justify = "right"
    for row in rows:
        table.add_row(*(for_terminal(cell) for cell in row))
    screen = Console()
    # A pipe has no width: whole lines, for grep and awk.
    Console(width=None if screen.is_terminal else 400).print(table)
