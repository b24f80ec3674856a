"""`gigagan presets`, `data publish | report` and `records send`: what to choose from, and what there is already."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import DataOption, JsonOption, StoreOption
from gigagan_core.cli.tables import print_table

if TYPE_CHECKING:
    from gigagan_core.store.artifact import Artifact

data_app = typer.Typer(no_args_is_help=True, help="The embedded data set, and the page of any shard set.")
records_app = typer.Typer(no_args_is_help=True, help="What MLflow has not got yet.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("presets")(presets)
    app.add_typer(data_app, name="data")
    app.add_typer(records_app, name="records")


def presets(as_json: JsonOption = False) -> None:
    """List the presets: name, what for, parameters of every network, and the paper's count where it states one.

    A published count leaves the frozen encoder, the learned text encoder T and the vision-aided heads out;
    "counted" does the same, "all" leaves nothing out.
    """
    with answering(as_json) as answer:
        from gigagan_core.config.presets import PRESETS

        listed = {name: _preset_document(name) for name in PRESETS}
        answer(listed)
        if not as_json:
            columns = ("preset", "what for", "network", "all", "counted", "paper", "difference")
            print_table(columns, [row for name in listed for row in _preset_rows(name, listed[name])])


def _preset_document(name: str) -> dict[str, Any]:
    from gigagan_core.config.presets import PRESETS, networks, published_counts
    from gigagan_core.models.counting import count_parameters

    published, shown = published_counts(name), {}
    for place, settings in networks(name).items():
        counted, everything = count_parameters(settings)
        shown[place] = {"parameters": everything, "parameters_counted": counted}
        if place in published:
            paper = published[place]
            shown[place] |= {"paper": round(paper.millions * 1e6), "explained": paper.explained}
    return {"purpose": PRESETS[name].purpose, "part": PRESETS[name].part, "networks": shown}


def _preset_rows(name: str, document: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for place, counts in document["networks"].items():
        counted, paper = counts["parameters_counted"], counts.get("paper")
        rows.append(
            (
                "" if rows else name,
                "" if rows else document["purpose"],
                place,
                _millions(counts["parameters"]),
                _millions(counted),
                _millions(paper) if paper else "",
                f"{counted / paper - 1:+.1%}{'' if counts['explained'] else ' (no match claimed)'}"
                if paper
                else "",
            )
        )
    return rows


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f}M"


@data_app.command("publish")
def data_publish(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the tables.")],
    limit: Annotated[
        int | None, typer.Option(min=32, help="This many drawings, about.", show_default="all")
    ] = None,
    size: Annotated[
        int, typer.Option(min=16, max=1024, help="Side of the pictures as they are served, pixels.")
    ] = 160,
    as_json: JsonOption = False,
) -> None:
    """Write the embedded drawings' metadata as parquet, in the columns of LAION-2B-en-joined.

    `gigagan ingest --metadata FOLDER/train --set site=openmoji` then fetches them over HTTP on loopback.
    """
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.stages.sources import publish

        rows = publish(folder.expanduser().absolute(), limit, size)
        console.note(f"{folder}: " + ", ".join(f"{name} {count} rows" for name, count in rows.items()))
        answer({"folder": str(folder.absolute()), "rows": rows})


@data_app.command("report")
def data_report(
    data: DataOption = "latest",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The page to write.", show_default="data-report-PREFIX.html"
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a shard set's page: rows by reason, score histograms, sizes, caption lengths, samples by score decile."""
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.data import report
        from gigagan_core.data.shards import read_index
        from gigagan_core.stages import references
        from gigagan_core.store.store import open_store

        artifact = references.shard_set(open_store(store, for_reading=True), data)
        path = (out or Path(f"data-report-{artifact.short}.html")).expanduser().absolute()
        page = report.data_report(
            read_index(artifact), title=f"{artifact.label} {artifact.short}", notes=_facts(artifact)
        )
        _write_page(path, page)
        console.note(f"{artifact.short}: {path}")
        answer({"report": str(path), "artifact": artifact.reference()})


def _write_page(path: Path, page: str) -> None:
    """Whole or not at all: half a page would count the rows wrong."""
    from gigagan_core.errors import GigaganError

    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise GigaganError(
            f"report {path} cannot be written ({error.strerror}); make room, or name another file with --out"
        ) from None


def _facts(artifact: Artifact) -> dict[str, str]:
    """What the end of a shard set's page says of it."""
    manifest = artifact.manifest
    facts = {
        "artifact": artifact.fingerprint,
        "stage": artifact.stage,
        "made (UTC)": manifest["created"][:19],
        "git commit": manifest.get("git_commit"),
        "licence": artifact.notes.get("licence"),
        "attribution": artifact.notes.get("attribution"),
    }
    return {name: str(value) for name, value in facts.items() if value}


@records_app.command("send")
def records_send(as_json: JsonOption = False) -> None:
    """Send the metrics that a run could not, since MLflow was away and had not come back before it ended."""
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.tracking import spool

        sent = [spool.send(path) for path in spool.waiting()]
        for of_run in sent:
            console.note(f"run {of_run.run_id}: {of_run.metrics} metrics sent to {of_run.tracking_uri}")
        if not sent:
            console.note(f"no metrics wait in {spool.folder()}")
        answer({"sent": [of_run._asdict() for of_run in sent]})
