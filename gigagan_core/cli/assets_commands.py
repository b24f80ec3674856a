"""`gigagan assets`: files from outside that evaluations, losses and scorers need."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import JsonOption

NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="As `gigagan assets list` names them.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(
        name="assets", no_args_is_help=True, help="Weights and data sets from outside: list, fetch, verify."
    )
    group.command("list")(list_assets)
    group.command("fetch")(fetch_assets)
    group.command("verify")(verify_assets)
    app.add_typer(group)


def list_assets(as_json: JsonOption = False) -> None:
    """What there is, what is here, how sure its sum is, and what needs it."""
    with answering(as_json) as answer:
        from gigagan_core.assets.catalogue import assets
        from gigagan_core.assets.folder import AssetFolder

        folder = AssetFolder()
        rows = [_document(each, folder) for each in assets([])]
        answer({"folder": str(folder.root), "assets": rows})
        if not as_json:
            from gigagan_core.cli.tables import print_table

            shown = [
                (
                    row["name"],
                    row["state"],
                    _megabytes(row["size"]),
                    row["sum"],
                    row["licence"],
                    ", ".join(row["needed_by"]),
                )
                for row in rows
            ]
            print_table(("asset", "state", "MB", "sum", "licence", "needed by"), shown)


def fetch_assets(
    names: NamesArgument = None,
    mirror: Annotated[
        str | None,
        typer.Option("--mirror", metavar="URL", help="Fetch URL/FILE instead of the published addresses."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", metavar="NAME", help="Also all that an evaluation protocol needs."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every asset of the catalogue: about 20 GB to fetch.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch assets into .gigagan/assets (GIGAGAN_ASSETS): continued where it was cut off, and checked.

    One that cannot be fetched does not keep the others away.
    """
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.assets.address import address_of
        from gigagan_core.assets.catalogue import CATALOGUE, assets
        from gigagan_core.assets.fetch import fetch, not_fetched
        from gigagan_core.errors import GigaganError
        from gigagan_core.evaluation.protocols.named import protocol as protocol_of

        wanted = [*(names or []), *(protocol_of(protocol).assets if protocol else ())]
        if protocol and not wanted and not every:
            raise GigaganError(f"protocol {protocol} needs no asset: there is nothing to fetch")
        if not wanted and not every:
            raise GigaganError(
                "name the assets to fetch, or give --protocol NAME or --all; there are "
                f"{', '.join(sorted(CATALOGUE))}"
            )
        chosen = assets([] if every else wanted)
        address_of(chosen[0], mirror)  # a mirror that is none is said once
        fetched, failed = [], {}
        for each in chosen:
            try:
                done = fetch(each, mirror=mirror)
            except GigaganError as error:
                failed[each.name] = error
                console.warn(str(error))
                continue
            console.note(f"{each.name}: {done.how}, {done.path}")
            fetched.append(
                {
                    "name": each.name,
                    "path": str(done.path),
                    "sha256": done.sha256,
                    "how": done.how,
                    "pinned": done.pinned,
                }
            )
        if failed:
            error = not_fetched(failed, len(chosen))
            sentences = {name: str(each) for name, each in failed.items()}
            answer.now({"assets": fetched, "failed": sentences, "error": str(error)})
            raise error
        answer({"assets": fetched})


def verify_assets(names: NamesArgument = None, as_json: JsonOption = False) -> None:
    """Read every fetched file again and compare its sum; without names, all that are here."""
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.assets.catalogue import assets
        from gigagan_core.assets.fetch import verify
        from gigagan_core.assets.folder import AssetFolder
        from gigagan_core.errors import GigaganError

        folder = AssetFolder()
        wanted = [
            each
            for each in assets(names or [])
            if names or folder.record(each.name) or folder.state(each).state == "unrecorded"
        ]
        right, wrong = {}, {}
        for each in wanted:
            try:
                right[each.name] = verify(each, folder)
                console.note(f"{each.name}: as it should be")
            except GigaganError as error:
                wrong[each.name] = str(error)
                console.warn(str(error))
        document = {"right": right, "wrong": wrong}
        answer(document)
        if wrong:
            sentence = (
                f"{len(wrong)} of {len(wanted)} assets are not as they should be ({', '.join(wrong)}); "
                f"{next(iter(wrong.values()))}"
            )
            answer.now({**document, "error": sentence})  # which ones are right is an answer too
            raise GigaganError(sentence)


def _document(each: Any, folder: Any) -> dict[str, Any]:
    state = folder.state(each)
    record = state.record or {}
    return {
        "name": each.name,
        "what": each.what,
        "state": state.state,
        "size": each.size or record.get("size"),
        "sum": "pinned" if each.sum_state == "unknown" and record else each.sum_state,
        "sha256": each.sha256 or record.get("sha256"),
        "sum_source": each.sum_source,
        "address": each.address,
        "licence": each.licence,
        "needed_by": list(each.needed_by),
        "place": str(folder.place(each)) if state.state == "fetched" else None,
    }


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.1f}"
