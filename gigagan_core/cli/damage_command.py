"""`gigagan damage`: an upsampler on other generators' kinds of damage, before and after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.inference_options import (
    BatchOption,
    DeviceOption,
    MemoryOption,
    ModelEncoderOption,
    NeededUpsamplerOption,
    OverwriteOption,
)
from gigagan_core.cli.options import (
    ExtractorSumOption,
    ExtractorWeightsOption,
    JsonOption,
    LpipsOption,
    SetOption,
    StoreOption,
)

if TYPE_CHECKING:
    from gigagan_core.config.damage import DamageSettings
    from gigagan_core.evaluation.damage_study import Originals, Study
    from gigagan_core.inference.upsampling import TiledUpsampler


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("damage")(damage)


def damage(
    pictures: Annotated[
        list[str] | None,
        typer.Argument(metavar="PICTURE|FOLDER|GLOB...", help="Sharp pictures, which are the aim."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="ARTIFACT", help="In place of files: a held-out shard set, with captions."
        ),
    ] = None,
    upsampler: NeededUpsamplerOption = "latest",
    encoder: ModelEncoderOption = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the results go.")] = Path(
        "damage"
    ),
    extractor: Annotated[
        list[str] | None,
        typer.Option(
            "--extractor",
            metavar="NAME[:FILE]",
            help="As of `gigagan metrics`: gives distances of whole pictures and of patches. Repeat for more.",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="ARTIFACT", help="An encoder of role judge, as one more extractor."),
    ] = None,
    weights: ExtractorWeightsOption = None,
    sha256: ExtractorSumOption = None,
    lpips: LpipsOption = None,
    overrides: SetOption = None,
    batch_size: BatchOption = None,
    memory: MemoryOption = None,
    device: DeviceOption = None,
    overwrite: OverwriteOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try an upsampler on blurred, compressed, noisy and badly decoded pictures, beside bicubic enlarging.

    Writes the damaged and the enlarged pictures, sheets of before and after, and the figures as JSON and as a page.
    """
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.cli.metrics_command import places
        from gigagan_core.config.base import with_overrides
        from gigagan_core.config.damage import DamageSettings
        from gigagan_core.errors import GigaganError
        from gigagan_core.evaluation import damage_page, damage_study
        from gigagan_core.evaluation.extraction import loaded
        from gigagan_core.evaluation.extractors.registry import ExtractorPlace
        from gigagan_core.inference.outputs import OutputFolder
        from gigagan_core.inference.pipeline import load_upsampler
        from gigagan_core.inference.upsampling import TileOptions
        from gigagan_core.stages.judge import place
        from gigagan_core.store.named import encoder as encoder_of_role
        from gigagan_core.store.store import open_store

        if bool(pictures) == bool(data):
            raise GigaganError("nothing says what to damage; give pictures or --data ARTIFACT, and not both")
        settings = with_overrides(DamageSettings(), overrides or ())
        folder, opened = OutputFolder(out), open_store(store)
        wanted = places(extractor or [], weights or [], sha256 or [], "exact")
        if judge:
            wanted += (ExtractorPlace(place(encoder_of_role(opened, judge, role="judge"))),)
        extractors = [loaded(each) for each in wanted]
        network = load_upsampler(upsampler, encoder, device, store=opened)
        originals = _originals(pictures, data, network, settings, folder.folder, opened)
        total = len(originals.names) * (1 + len(settings.kinds))
        with console.progress("enlarging", total=total, unit="images") as bar:
            study = damage_study.study(
                network,
                originals,
                settings,
                folder,
                extractors,
                lpips,
                TileOptions(batch_size=batch_size, memory_limit=memory),
                overwrite,
                on_images=bar.advance,
            )
        paths = {name: str(path) for name, path in damage_page.write(study, folder.folder).items()}
        answer({**study.as_json(), "paths": paths})
        if not as_json:
            _show(study)
        for name in ("png", "html", "json"):
            console.note(paths[name])


def _originals(
    pictures: list[str] | None,
    data: str | None,
    upsampler: TiledUpsampler,
    settings: DamageSettings,
    out: Path,
    store: Any,
) -> Originals:
    from gigagan_core.evaluation import damage_study
    from gigagan_core.inference.outputs import find_pictures

    size = upsampler.network.settings.image_size
    if not data:
        found = find_pictures(pictures or [], leave_out=out)
        return damage_study.originals_of(found, size, settings)
    from gigagan_core.data.reader import load_all
    from gigagan_core.stages.references import shard_set

    images, captions, keys = load_all(shard_set(store, data, held_out=True), size)
    reads = upsampler.network.settings.conditioning == "text"
    return damage_study.originals_of_set(images, captions, keys, reads, settings)


def _show(study: Study) -> None:
    from gigagan_core import console
    from gigagan_core.cli.tables import print_table
    from gigagan_core.evaluation.claims import figure
    from gigagan_core.evaluation.damage_page import label
    from gigagan_core.evaluation.damage_study import BICUBIC, OURS

    rows = []
    for trial in study.trials:
        for ours, theirs in zip(trial.figures[OURS], trial.figures[BICUBIC], strict=True):
            gain, ends = trial.gains.get(ours.name, (None, None))
            shown = "" if ends is None else f"{figure(gain)} ({figure(ends.low)} to {figure(ends.high)})"
            rows.append((label(trial), ours.name, figure(theirs.value), figure(ours.value), shown))
    print_table(("damage", "figure", BICUBIC, OURS, "gain"), rows)
    for caution in study.cautions:
        console.warn(caution)
