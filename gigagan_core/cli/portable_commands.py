"""`gigagan data pack` and `gigagan import-model`: to a machine with torch alone, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import (
    AcceptOption,
    EncoderOption,
    ForceOption,
    JsonOption,
    MixtureOption,
    PresetOption,
    SetOption,
    StoreOption,
)
from gigagan_core.cli.show_commands import data_app
from gigagan_core.cli.stage_commands import stage_surroundings


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    data_app.command("pack")(pack)
    app.command("import-model")(import_model)


def pack(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="A new folder for the pack.")],
    data: MixtureOption = None,
    encoder: EncoderOption = "latest",
    preset: PresetOption = "openmoji-64",
    part: Annotated[
        Literal["base", "upsampler", "control"] | None,
        typer.Option("--part", help="Which model of a preset that has several.", show_default="the preset's"),
    ] = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack data, encoder and settings for a training on a machine that has torch alone (docs/openmoji.md)."""
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.config.presets import PRESETS
        from gigagan_core.data.packing import write_pack
        from gigagan_core.encoders.roles import CONDITION, require_role
        from gigagan_core.stages import references
        from gigagan_core.stages.training import mixture_of
        from gigagan_core.store.artifact import Artifact
        from gigagan_core.store.store import open_store

        opened = open_store(store, for_reading=True)
        named = PRESETS.get(preset)
        section = part or (named.part if named and named.part else "base")
        settings = references.settings_of(preset, section, overrides)
        sets = mixture_of(references.training_data(opened, data or "latest"))
        frozen = references.encoder(opened, encoder)
        require_role(frozen, CONDITION)
        made_of = {
            "preset": preset,
            "data": [
                {
                    "reference": each.reference(),
                    "weight": weight,
                    "label": each.manifest.get("label", each.stage),
                    "notes": each.notes,
                }
                for each, weight in sets
            ],
            "encoder": frozen.reference(),
        }
        place = frozen.path if isinstance(frozen, Artifact) else frozen.uri
        folder = out.expanduser()
        index = write_pack(folder, settings, [(each.path, weight) for each, weight in sets], place, made_of)
        answer(_document(folder, index))
        files = [each for parts in index["files"].values() for each in parts]
        size = sum(each["bytes"] for each in files)
        console.note(f"{folder}: {sum(index['counts']):,} samples, {len(files)} files, {size / 1e6:.1f} MB")
        console.note(
            f"there: python -m gigagan_core.training.portable {folder.name} --out RESULT --minutes 9"
        )


def _document(folder: Path, index: dict[str, Any]) -> dict[str, Any]:
    files = {each["file"]: each["bytes"] for parts in index["files"].values() for each in parts}
    kept = {name: index[name] for name in ("kind", "preset", "sha256", "counts", "image_size")}
    return {"folder": str(folder), **kept, "files": files, "bytes": sum(files.values())}


def import_model(
    folder: Annotated[
        Path, typer.Argument(metavar="RESULT", help="What a portable training brought back, finished or not.")
    ],
    store: StoreOption = None,
    force: ForceOption = False,
    accept_code_change: AcceptOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a model of the store from what `python -m gigagan_core.training.portable` left."""
    with stage_surroundings(store, force, accept_code_change, as_json) as context:
        from gigagan_core.stages import import_model as stage

        stage.run(folder.expanduser(), context)
