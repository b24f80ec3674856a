"""`gigagan store pin | unpin | gc | forget`: what stays in the store, and what leaves it."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import JsonOption, StoreOption, duration
from gigagan_core.cli.store_commands import COLUMNS, AnyArtifact, document, row
from gigagan_core.cli.tables import print_table

if TYPE_CHECKING:
    from gigagan_core.store.garbage import Plan
    from gigagan_core.store.store import Store


def register(store_app: typer.Typer) -> None:
    """Add the commands of this module to the group `store`."""
    store_app.command("pin")(pin)
    store_app.command("unpin")(unpin)
    store_app.command("gc")(gc)
    store_app.command("forget")(forget)


def pin(
    artifact: AnyArtifact,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="For whoever finds the pin.")] = "",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep an artifact, and all it was made of, from `gigagan store gc`."""
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.store import pins
        from gigagan_core.store.store import open_store

        opened = open_store(store)
        found = opened.resolve(artifact, ())
        answer(vars(pins.pin(opened, found, why)))
        console.note(f"{found.short} ({found.label}) is pinned")


def unpin(artifact: AnyArtifact, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Let go of a pinned artifact."""
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.store import pins
        from gigagan_core.store.store import open_store

        opened = open_store(store)
        found = opened.resolve(artifact, ())
        was_pinned = pins.unpin(opened, found)
        answer({"artifact": found.reference(), "was_pinned": was_pinned})
        console.note(f"{found.short} ({found.label}) {'is no longer' if was_pinned else 'was not'} pinned")


def gc(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="What was made or used since stays: 12h, 30d.")
    ] = "30d",
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep",
            metavar="N",
            min=0,
            help="Only the N newest ended pipeline runs keep their artifacts.",
            show_default="all runs",
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove it; without this, only show what would go.")
    ] = False,
    ignore_mlflow: Annotated[
        bool, typer.Option("--ignore-mlflow", help="Do not ask MLflow which models are registered.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show, and with --delete remove, what nothing refers to.

    What stays: what a pipeline run on record had, registered models, what is pinned, what begun work uses, what was
    made or used within --older-than, and all that any of these was made of. Work that was cut off before then goes too.
    """
    with answering(as_json) as answer:
        from gigagan_core.store import garbage
        from gigagan_core.store.store import open_store

        opened, grace = open_store(store), duration(older_than, "--older-than")
        found = garbage.plan(opened, grace, keep, **({} if ignore_mlflow else _registry()))
        kept = Counter(found.reasons.values())
        if delete:
            found = garbage.collect(opened, found, grace)
        answer(_gc_document(found, kept, delete))
        if not as_json:
            _print_gc(opened, found, kept, delete, grace)


def _registry() -> dict[str, Any]:
    from gigagan_core import environment
    from gigagan_core.tracking import registry

    return {"wanted": registry.wanted(environment.mlflow_uri())}


def _gc_document(found: Plan, kept: Counter[str], deleted: bool) -> dict[str, Any]:
    return {
        "deleted": deleted,
        "bytes": found.bytes,
        "artifacts": [document(artifact) for artifact in found.remove],
        "work": [str(path) for path in found.work],
        "leftovers": list(found.leftovers),
        "runs": [record.id for record in found.runs],
        "kept": dict(kept),
    }


def _print_gc(store: Store, found: Plan, kept: Counter[str], deleted: bool, grace: timedelta) -> None:
    from rich import filesize

    from gigagan_core import console

    if found.remove:
        print_table(COLUMNS, [row(artifact) for artifact in found.remove])
    if found.work:
        print_table(("work that was cut off",), [(path,) for path in found.work])
    if found.leftovers:
        print_table(("folder without a manifest",), [(place,) for place in found.leftovers])
    if found.runs:
        columns = ("run that is forgotten", "begun (UTC)")
        print_table(columns, [(record.short, record.created[:19]) for record in found.runs])
    for why, count in sorted(kept.items()):
        console.note(f"kept: {why}" + (f", {count} artifacts" if count > 1 else ""))
    size = filesize.decimal(found.bytes)
    what = f"{len(found.remove)} artifacts and {len(found.work) + len(found.leftovers)} unfinished folders"
    if deleted:
        console.note(f"removed {what} of {store.uri}: {size} freed")
    elif found.remove or found.work or found.leftovers or found.runs:
        console.note(f"{what} could go, {size}; nothing was removed: add --delete")
    else:
        console.note(f"nothing of {store.uri} is older than {grace.days} days and unused")


def forget(
    url: Annotated[list[str] | None, typer.Option("--url", help="This URL. Repeat for more.")] = None,
    sha256: Annotated[
        list[str] | None, typer.Option("--sha256", help="Images with these bytes. Repeat for more.")
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option("--host", help="A host and its subdomains. Repeat for more.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove samples from every shard set for good, and list the models that were trained on them.

    Pictures, URLs and captions go; the rows stay and count as forgotten. Later ingests leave them out. Models are
    only named: train them again by giving their command again.
    """
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.data.forget import Forgotten
        from gigagan_core.stages import forget as stage
        from gigagan_core.store.store import open_store

        wanted = Forgotten.of(url or (), sha256 or (), host or ())
        removal = stage.forget(open_store(store), wanted)
        answer(
            {
                "removed": [{**document(each), "rows": rows} for each, rows in removal.rows],
                "trained_on_them": [document(each) for each in removal.trained],
            }
        )
        if not as_json:
            if not removal.rows:
                console.note("no sample here is meant; what was named is remembered for later ingests")
                return
            print_table(
                ("removed from", "stage", "rows"),
                [(each.short, each.label, str(rows)) for each, rows in removal.rows],
            )
            if removal.trained:
                columns = ("trained on them", *COLUMNS[1:4])
                print_table(columns, [row(each)[:4] for each in removal.trained])
