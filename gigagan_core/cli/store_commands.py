"""`gigagan store ls | show | diff | runs`: what the store holds, where it comes from, and what differs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import JsonOption, StoreOption, moment
from gigagan_core.cli.tables import print_table

if TYPE_CHECKING:
    from rich.tree import Tree

    from gigagan_core.store.artifact import Artifact
    from gigagan_core.store.lineage import Lineage
    from gigagan_core.store.runs import RunRecord
    from gigagan_core.store.store import Store

store_app = typer.Typer(no_args_is_help=True, help="Look at the artifact store, and keep it small.")
AnyArtifact = Annotated[
    str,
    typer.Argument(
        metavar="ARTIFACT", help="A fingerprint, a unique prefix of one, PREFIX.ATTEMPT, or a path."
    ),
]
_PARTS = ("partition", "scores", "embeddings")


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    app.add_typer(store_app, name="store")
    store_app.command("ls")(ls)
    store_app.command("show")(show)
    store_app.command("diff")(diff)
    store_app.command("runs")(list_runs)


def ls(
    store: StoreOption = None,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Only this stage's artifacts.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="Only this kind, e.g. shard-set, base-model.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="Made since: 2026-11-01, 12h, 30d.")
    ] = None,
    unused: Annotated[
        bool, typer.Option("--unused", help="Only what no artifact, run record, pin or work refers to.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Downloaded partitions and scores too, which other artifacts hold.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the committed artifacts, oldest first."""
    with answering(as_json) as answer:
        from gigagan_core.store import garbage
        from gigagan_core.store.store import open_store

        opened = open_store(store, for_reading=True)
        begin = moment(since, "--since") if since else None
        kinds = [kind] if kind else []
        found = garbage.unused(opened) if unused else opened.artifacts(stage, kinds)
        artifacts = [
            artifact
            for artifact in found
            if (everything or stage or kind or unused or artifact.kind not in _PARTS)
            and stage in (None, artifact.stage)
            and kind in (None, artifact.kind)
            and (begin is None or datetime.fromisoformat(artifact.manifest["created"]) >= begin)
        ]
        answer([document(artifact) for artifact in artifacts])
        if not artifacts:
            _note_what_there_is(opened, stage, kind)
        if not as_json:
            print_table(COLUMNS, [row(artifact) for artifact in artifacts])


def _note_what_there_is(store: Store, stage: str | None, kind: str | None) -> None:
    """A misspelt name finds nothing, and so does one whose turn has not come."""
    from gigagan_core import console

    asked = [f"{name} {value!r}" for name, value in (("stage", stage), ("kind", kind)) if value]
    there = store.artifacts() if asked else []
    if there:
        stages, kinds = sorted({each.stage for each in there}), sorted({each.kind for each in there})
        console.note(
            f"nothing of {' and '.join(asked)} is in {store.uri}; it has the stages {', '.join(stages)} and the kinds "
            f"{', '.join(kinds)}"
        )


COLUMNS = ("artifact", "stage", "kind", "made (UTC)", "rows out / in", "size")


def document(artifact: Artifact) -> dict[str, Any]:
    """An artifact for `--json`."""
    return {
        **artifact.reference(),
        "label": artifact.label,
        "created": artifact.manifest["created"],
        "uri": artifact.uri,
        "bytes": artifact.bytes,
        "counts": artifact.manifest.get("counts", {}),
        "summary": artifact.summary,
    }


def row(artifact: Artifact) -> tuple[str, ...]:
    """An artifact as cells under `COLUMNS`."""
    from rich import filesize

    counts = artifact.manifest.get("counts", {})
    rows = f"{counts['out']:,} / {counts['in']:,}" if "in" in counts else ""
    size = filesize.decimal(artifact.bytes)
    return (_name(artifact), artifact.label, artifact.kind, artifact.manifest["created"][:19], rows, size)


def _name(artifact: Artifact) -> str:
    return artifact.short if artifact.attempt == 1 else f"{artifact.short}.{artifact.attempt}"


def show(artifact: AnyArtifact, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show an artifact: manifest, what it was made of, what was made of it, size on disk, records of its run."""
    with answering(as_json) as answer:
        from gigagan_core.store import pins, runs
        from gigagan_core.store.lineage import Key, Lineage
        from gigagan_core.store.store import open_store

        opened = open_store(store, for_reading=True)
        found = opened.resolve(artifact, ())
        lineage = Lineage(opened.artifacts())
        in_runs = [each for each in runs.records(opened) if Key.of(found) in set(each.names())]
        made = {
            **document(found),
            "manifest": found.manifest,
            "links": _links(found, in_runs),
            "runs": [each.id for each in in_runs],
            "pinned": any(pin.key == Key.of(found) for pin in pins.pins(opened)),
            "alone_bytes": _alone(found) if opened.is_local else found.bytes,
            "made_of": _nested(found, lineage.parents),
            "used_by": _nested(found, lineage.children),
        }
        answer(made)
        if not as_json:
            _print_facts(found, made)
            _print_trees(found, lineage)


def _alone(artifact: Artifact) -> int:
    """Bytes that no other artifact shares by links."""
    from gigagan_core.store.removal import freed_bytes

    return freed_bytes([artifact.path])


def _links(artifact: Artifact, in_runs: list[RunRecord]) -> dict[str, str]:
    """Where to look at the run that made it, and at the runs that had it."""
    from gigagan_core import environment, servers
    from gigagan_core.text import without_password
    from gigagan_core.tracking.experiment import run_url

    links = {}
    run = artifact.manifest.get("mlflow")
    if run:
        server, uri = environment.mlflow_page(), environment.mlflow_uri()
        if server is None and (found := servers.running()) is not None:
            server = found.mlflow
        page = run_url(server or uri, run["experiment_id"], run["run_id"])
        links["MLflow run"] = page or f"{run['run_id']} in {without_password(uri)}"
    for record in in_runs:
        if record.prefect.get("id"):
            where = record.prefect.get("url") or record.prefect["id"]
            links[f"Prefect run {record.prefect.get('name', '')}".strip()] = where
    return links


def _nested(
    artifact: Artifact, next_to: Callable[[Artifact], list[tuple[str, Artifact]]]
) -> list[dict[str, Any]]:
    return [
        {"role": role, **each.reference(), "label": each.label, "next": _nested(each, next_to)}
        for role, each in next_to(artifact)
    ]


def _print_facts(artifact: Artifact, made: dict[str, Any]) -> None:
    from rich import filesize

    manifest, counts = artifact.manifest, artifact.manifest.get("counts", {})
    size = filesize.decimal(made["bytes"])
    if made["alone_bytes"] != made["bytes"]:
        size += f" ({filesize.decimal(made['alone_bytes'])} on disk of its own, with the manifest)"
    facts = {
        "artifact": artifact.fingerprint + (f" attempt {artifact.attempt}" if artifact.attempt > 1 else ""),
        "stage": f"{artifact.label}, a {artifact.kind}",
        "made (UTC)": f"{manifest['created'][:19]} in {manifest.get('wall_seconds', 0):,.1f} s",
        "place": artifact.uri,
        "size": f"{size}, {len(manifest.get('files', {}))} files",
        "git commit": manifest.get("git_commit"),
        "runs": ", ".join(run[:12] for run in made["runs"]),
        "pinned": "yes" if made["pinned"] else "",
        "rows": f"{counts['out']:,} of {counts['in']:,}" if "in" in counts else "",
        **{f"rejected: {reason}": f"{n:,}" for reason, n in counts.get("rejected", {}).items()},
        **made["links"],
        **{name: f"{value:.6g}" for name, value in artifact.summary.items()},
    }
    print_table(("", ""), [(name, value) for name, value in facts.items() if value])
    settings = [(name, str(value)) for name, value in _flat(manifest.get("settings", {})).items()]
    print_table(("setting", "value"), settings)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    from gigagan_core.config.base import flat

    return flat(settings)


def _print_trees(artifact: Artifact, lineage: Lineage) -> None:
    from rich.console import Console

    screen = Console()
    width = None if screen.is_terminal else 400
    for title, next_to in (("made of", lineage.parents), ("used by", lineage.children)):
        Console(width=width).print(_tree(title, artifact, next_to))


def _tree(title: str, artifact: Artifact, next_to: Callable[[Artifact], list[tuple[str, Artifact]]]) -> Tree:
    """Each artifact once with what comes after it; the parts of a shard set as one line."""
    from rich.tree import Tree

    from gigagan_core.text import for_terminal

    seen: set[Artifact] = set()

    def grow(branch: Tree, each: Artifact) -> None:
        neighbours = next_to(each)
        parts = [part for role, part in neighbours if role == "partitions"]
        for role, other in neighbours:
            if role == "partitions":
                continue
            line = f"{role}: {_name(other)} {other.label}, {other.manifest['created'][:19]}"
            known = other in seen
            seen.add(other)
            leaf = branch.add(for_terminal(line + (" (above)" if known else "")))
            if not known:
                grow(leaf, other)
        if parts:
            branch.add(f"{len(parts):,} {'partition' if len(parts) == 1 else 'partitions'}")

    tree = Tree(title)
    grow(tree, artifact)
    if not tree.children:
        tree.add("nothing in this store")
    return tree


def diff(
    one: AnyArtifact, other: AnyArtifact, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Show what differs between two artifacts of a stage: settings, inputs, code modules, package versions."""
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.errors import GigaganError
        from gigagan_core.store.difference import differences
        from gigagan_core.store.store import open_store

        opened = open_store(store, for_reading=True)
        before, after = opened.resolve(one, ()), opened.resolve(other, ())
        if before.stage != after.stage:
            raise GigaganError(
                f"{before.short} was made by {before.stage} and {after.short} by {after.stage}; name two of one stage"
            )
        found = differences(before.manifest, after.manifest)
        same = before.manifest["files"] == after.manifest["files"]
        answer(
            {
                "before": before.reference(),
                "after": after.reference(),
                "same_content": same,
                "differences": [vars(each) for each in found],
            }
        )
        if as_json:
            return
        if found:
            columns = ("what", "name", _name(before), _name(after))
            print_table(columns, [(each.what, each.name, each.before, each.after) for each in found])
        else:
            console.note("equal: settings, inputs, code and package versions are the same")
        console.note("what came out is the same" if same else "what came out differs")


def list_runs(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the pipeline runs on record, oldest first; `gigagan run STAGE --from RUN` takes one of them."""
    with answering(as_json) as answer:
        from gigagan_core.store import runs
        from gigagan_core.store.store import open_store

        known = runs.records(open_store(store, for_reading=True))
        answer([{**vars(record), "status": record.state} for record in known])
        if not as_json:
            columns = (
                "run",
                "Prefect run",
                "flow",
                "begun (UTC)",
                "status",
                "rerun of",
                "made",
                "cached",
                "kept",
            )
            print_table(columns, [_run_row(record) for record in known])


def _run_row(record: RunRecord) -> tuple[str, ...]:
    counts = (
        sum(each["how"] == how for each in record.artifacts.values()) for how in ("made", "cached", "kept")
    )
    return (
        record.short,
        record.prefect.get("name", ""),
        record.flow,
        record.created[:19],
        record.state,
        (record.of or "")[:12],
        *(str(count) for count in counts),
    )
