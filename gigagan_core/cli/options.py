"""Options that several commands share, with one wording."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URI",
        help="Where artifacts are kept: a folder or an fsspec URI.",
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output, and nothing else there.")
]
PresetOption = Annotated[
    str, typer.Option("--preset", metavar="NAME", help="Settings to start from; see `gigagan presets`.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting, e.g. --set batch_size=8. Repeat for more."
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Work though the artifact exists; what depends on it runs too.")
]
AcceptOption = Annotated[
    bool,
    typer.Option("--accept-code-change", help="Keep an artifact that older code made, and record that."),
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="local|ray-job|kuberay",
        help="Where the work is done; see docs/operations.md.",
        show_default="of GIGAGAN_BACKEND, or local",
    ),
]
BackendSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--backend-set",
        metavar="KEY=VALUE",
        help="Change one setting of the backend, e.g. ray_job.address=http://ray:8265. Repeat for more.",
    ),
]
DataOption = Annotated[
    str, typer.Option("--data", metavar="ARTIFACT", help="Shard set: fingerprint, prefix, path, or `latest`.")
]
UncuratedOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="ARTIFACT",
        help="Shard set: fingerprint, prefix, path, or `latest`, the newest that is not curated.",
    ),
]
MixtureOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="ARTIFACT[=WEIGHT]",
        help="Shard set: fingerprint, prefix, path, or `latest`. Repeat with weights for a mixture.",
        show_default="latest",
    ),
]
ModelOption = Annotated[str, typer.Option("--model", metavar="ARTIFACT", help="Base model.")]
JudgedDataOption = Annotated[str, typer.Option("--data", metavar="ARTIFACT", help="Held-out shard set.")]
ConditionOption = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        metavar="ARTIFACT|ARCH:PATH",
        help="What conditions the model.",
        show_default="the one that the model was trained with",
    ),
]
JudgeOption = Annotated[
    str, typer.Option("--judge", metavar="ARTIFACT|ARCH:PATH", help="Encoder that gives every figure.")
]
AsHeldOutOption = Annotated[
    bool, typer.Option("--heldout", help="The set that models are judged on, and never trained on.")
]
HeldOutOption = Annotated[
    str, typer.Option("--heldout", metavar="ARTIFACT", help="Held-out shard set, for retrieval figures.")
]
EncoderOption = Annotated[
    str,
    typer.Option(
        "--encoder",
        metavar="ARTIFACT|ARCH:PATH",
        help="Encoder: an artifact, `latest`, or an open_clip architecture with a weight file.",
    ),
]
InitFromOption = Annotated[
    str | None,
    typer.Option(
        "--init-from",
        metavar="ARTIFACT|BUNDLE",
        help="An earlier model whose generator is the start: an artifact, `latest`, or a bundle's folder.",
        show_default="untrained",
    ),
]
ExtractorWeightsOption = Annotated[
    list[str] | None,
    typer.Option("--weights", metavar="FILE", help="Weight file of each --extractor that names none."),
]
ExtractorSumOption = Annotated[
    list[str] | None,
    typer.Option("--sha256", metavar="SUM", help="What each weight file must have, in the same order."),
]
LpipsOption = Annotated[
    str | None, typer.Option("--lpips", metavar="BACKBONE:FILE", help="vgg or alex, for LPIPS.")
]


def numbers(text: str, option: str) -> tuple[int, ...]:
    """``1,8,32`` as numbers above 0. Raises GigaganError, naming the option, for anything else."""
    from gigagan_core.errors import GigaganError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise GigaganError(f"{option} {text!r} is no list of numbers; write for example {option} 1,8,64")
    return tuple(int(part) for part in parts)


_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def duration(text: str, option: str) -> timedelta:
    """``12h``, ``30d`` or ``2w``. Raises GigaganError, naming the option, for anything else."""
    from gigagan_core.errors import GigaganError

    written = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip())
    if written is None:
        raise GigaganError(f"{option} {text!r} is no duration; write for example {option} 12h, 30d or 2w")
    try:
        given = timedelta(**{_UNITS[written[2]]: float(written[1])})
        datetime.now(UTC) - given
    except OverflowError:
        raise GigaganError(f"{option} {text!r} reaches back beyond the year 1; give a shorter time") from None
    return given


def moment(text: str, option: str) -> datetime:
    """A date, a time (UTC unless it says otherwise), or so long ago: ``2026-11-01``, ``2026-11-01T12:00``, ``7d``."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC) - duration(text, option)
    return given if given.tzinfo else given.replace(tzinfo=UTC)
