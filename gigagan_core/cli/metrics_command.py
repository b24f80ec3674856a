"""`gigagan metrics`: any two folders of images, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import ExtractorSumOption, ExtractorWeightsOption, JsonOption, LpipsOption

if TYPE_CHECKING:
    from gigagan_core.evaluation.extractors.registry import ExtractorPlace
    from gigagan_core.evaluation.folder_metrics import Measured


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("metrics")(metrics)


def metrics(
    fake: Annotated[
        Path, typer.Option("--fake", metavar="FOLDER", help="Generated images; nested folders too.")
    ],
    extractor: Annotated[
        list[str],
        typer.Option(
            "--extractor",
            metavar="NAME[:FILE]",
            help="inception, inception-legacy_pytorch, dinov2-vitl14, an open_clip architecture, or an encoder's "
            "folder. Repeat for more: every image is still decoded once.",
        ),
    ],
    real: Annotated[
        Path | None,
        typer.Option(
            "--real", metavar="FOLDER", help="Real images; CLIP score and Inception Score do without."
        ),
    ] = None,
    weights: ExtractorWeightsOption = None,
    sha256: ExtractorSumOption = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            "--captions", metavar="FILE", help="JSONL, CSV or NAME<tab>caption: for the CLIP score."
        ),
    ] = None,
    wanted: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="A,B,...",
            help="fd, fd-infinity, kid, precision-recall, density-coverage, cmmd, clip-score, is; of pairs of images: "
            "psnr, ssim, lpips, patch-fd.",
            show_default="all of the first but fd-infinity, as far as extractors, captions and folders allow",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", min=8, help="Centre crop and Lanczos to this side first, as GigaGAN's authors do."
        ),
    ] = None,
    clip_protocol: Annotated[
        Literal["exact", "authors", "plain"],
        typer.Option(
            "--clip-protocol",
            help='exact: captions after "A photo depicts"; authors: and their truncated pixels; plain: as they are.',
        ),
    ] = "exact",
    lpips: LpipsOption = None,
    patch_size: Annotated[int, typer.Option("--patch-size", min=4, help="Side of patch-FD's patches.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Of subsets, splits, patches and intervals.")] = 0,
    resamples: Annotated[int, typer.Option("--resamples", min=100, help="Of the bootstrap.")] = 1000,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave files out that do not decode, and say so.")
    ] = False,
    work: Annotated[
        Path | None,
        typer.Option(
            "--work", metavar="FOLDER", help="Where features are kept.", show_default=".gigagan/metrics"
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            help="That decode images; they change no figure.",
            show_default="one for each processor, in a Ray task 2",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Images that a network sees at once.")
    ] = 32,
    on_ray: Annotated[bool, typer.Option("--ray", help="Spread the shards over Ray (RAY_ADDRESS).")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare folders of images: FID or FD, KID, precision, recall, density, coverage, CMMD, CLIP score, IS.

    Only Inception with the published weights gives "fid"; any other network's distance is "fd". Nothing is downloaded.
    """
    with answering(as_json) as answer:
        from gigagan_core.evaluation.folder_metrics import FolderMetrics, measure
        from gigagan_core.evaluation.set_metrics import MeasureOptions

        settings = FolderMetrics(
            real=real and real.expanduser(),
            fake=fake.expanduser(),
            extractors=places(extractor, weights or [], sha256 or [], clip_protocol),
            metrics=tuple(name.strip() for name in (wanted or "").split(",") if name.strip()) or None,
            captions=captions and captions.expanduser(),
            size=size,
            lpips=lpips,
            patch_size=patch_size,
            skip_corrupt=skip_corrupt,
            options=MeasureOptions(seed=seed, resamples=resamples),
            work=work and work.expanduser(),
            batch_size=batch_size,
            threads=threads,
        )
        if on_ray:
            from gigagan_core.stages.session import PoliteRaySession

            session = PoliteRaySession()
            try:
                measured = measure(settings, session.ray())
            finally:
                session.close()
        else:
            measured = measure(settings)
        answer(measured.as_json())
        if not as_json:
            _show(measured)


def places(
    extractors: list[str], weights: list[str], sums: list[str], clip_protocol: str
) -> tuple[ExtractorPlace, ...]:
    """Extractors joined with the weight files given apart, in their order. Raises GigaganError where too many are."""
    from gigagan_core.errors import GigaganError
    from gigagan_core.evaluation.extractors.registry import ExtractorPlace, with_weights

    files, own_sums, found = list(weights), list(sums), []
    for name in extractors:
        apart = ":" not in name and not Path(name).expanduser().is_dir()
        found.append(
            ExtractorPlace(
                with_weights(name, files.pop(0) if apart and files else None),
                own_sums.pop(0) if own_sums else None,
                prefix=clip_protocol != "plain",
                truncate=clip_protocol == "authors",
            )
        )
    if files or own_sums:
        what = f"--weights {files[0]}" if files else f"--sha256 {own_sums[0]}"
        raise GigaganError(
            f"{what} belongs to no --extractor; give one for each extractor, in the same order"
        )
    return tuple(found)


def _show(measured: Measured) -> None:
    from gigagan_core import console
    from gigagan_core.cli.tables import print_table

    rows = []
    for figure in measured.figures:
        interval = figure.interval
        if interval is not None:
            range_ = f"{interval.low:.4g} to {interval.high:.4g} ({interval.level:.0%})"
        else:
            range_ = "" if figure.spread is None else f"± {figure.spread:.4g}"
        arrow = "↓" if figure.better == "lower" else "↑"
        images = f"{figure.real:,} / {figure.fake:,}" if figure.real else f"{figure.fake:,}"
        rows.append((figure.name, f"{figure.value:.5g} {arrow}", range_, images))
    print_table(("figure", "value", "interval or spread", "images real / generated"), rows)
    for figure in measured.figures:
        for caution in figure.cautions:
            console.warn(f"{figure.name}: {caution}")
    for caution in measured.cautions:
        console.warn(caution)
