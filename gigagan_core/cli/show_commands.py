"""`gigagan presets`, `store ls` and `data publish`: what there is to choose from, and what there is already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import JsonOption, StoreOption

if TYPE_CHECKING:
    from gigagan_core.store.artifact import Artifact

data_app = typer.Typer(no_args_is_help=True, help="The embedded data set.")
store_app = typer.Typer(no_args_is_help=True, help="Look at the artifact store.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("presets")(presets)
    app.add_typer(store_app, name="store")
    app.add_typer(data_app, name="data")


def presets(as_json: JsonOption = False) -> None:
    """List the presets: name and what for."""
    with answering(as_json) as answer:
        from gigagan_core.config.presets import PRESETS

        listed = {name: preset.purpose for name, preset in PRESETS.items()}
        answer(listed)
        if not as_json:
            _print_table(("preset", "what for"), list(listed.items()))


@store_app.command("ls")
def store_ls(
    store: StoreOption = None,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Only this stage's artifacts.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Downloaded partitions and scores too, which other artifacts hold.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the committed artifacts, oldest first."""
    with answering(as_json) as answer:
        from gigagan_core.store.store import open_store

        artifacts = [
            artifact
            for artifact in open_store(store).artifacts(stage)
            if everything or stage or artifact.kind not in _PARTS
        ]
        answer([_document(artifact) for artifact in artifacts])
        if not as_json:
            columns = ("artifact", "stage", "kind", "made (UTC)", "rows out / in")
            _print_table(columns, [_row(artifact) for artifact in artifacts])


_PARTS = ("partition", "scores")


def _document(artifact: Artifact) -> dict[str, Any]:
    return {
        **artifact.reference(),
        "label": _label(artifact),
        "created": artifact.manifest["created"],
        "uri": artifact.uri,
        "counts": artifact.manifest.get("counts", {}),
        "summary": artifact.summary,
    }


def _row(artifact: Artifact) -> tuple[str, ...]:
    counts = artifact.manifest.get("counts", {})
    rows = f"{counts['out']:,} / {counts['in']:,}" if "in" in counts else ""
    return (artifact.short, _label(artifact), artifact.kind, artifact.manifest["created"][:19], rows)


def _label(artifact: Artifact) -> str:
    return artifact.manifest.get("label", artifact.stage)


@data_app.command("publish")
def data_publish(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the tables.")],
    limit: Annotated[
        int | None, typer.Option(min=32, help="This many drawings, about.", show_default="all")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the embedded drawings' metadata as parquet, in the columns of LAION-2B-en-joined.

    `gigagan ingest --metadata FOLDER/train --set site=openmoji` then fetches them over HTTP on loopback.
    """
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.stages.sources import publish

        rows = publish(folder.expanduser().absolute(), limit)
        console.note(f"{folder}: " + ", ".join(f"{name} {count} rows" for name, count in rows.items()))
        answer({"folder": str(folder.absolute()), "rows": rows})


def _print_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """A table on standard output; cells are plain text."""
    from rich.console import Console
    from rich.table import Table

    from gigagan_core.text import for_terminal

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(for_terminal(cell) for cell in row))
    screen = Console()
    # A pipe has no width: whole lines, for grep and awk.
    Console(width=None if screen.is_terminal else 400).print(table)
