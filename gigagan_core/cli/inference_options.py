"""Options of the commands that make pictures, with one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="ARTIFACT|BUNDLE|models:/NAME@ALIAS",
        help="Base model: an artifact, `latest`, a bundle's folder, or one of MLflow's registry.",
    ),
]
UpsamplerOption = Annotated[
    str | None,
    typer.Option(
        "--upsampler",
        metavar="ARTIFACT|BUNDLE|none",
        help="Enlarge the pictures with it; `none` leaves them small.",
        show_default="latest, where it fits",
    ),
]
NeededUpsamplerOption = Annotated[
    str,
    typer.Option(
        "--upsampler",
        metavar="ARTIFACT|BUNDLE|models:/NAME@ALIAS",
        help="An artifact, `latest`, a bundle's folder, or one of MLflow's registry.",
    ),
]
ModelEncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        metavar="ARTIFACT|FOLDER|ARCH:PATH",
        help="Encoder of the captions.",
        show_default="the one the model was trained with",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the latent.")]
TruncationOption = Annotated[
    float, typer.Option("--truncation", help="Psi towards the mean of all prompts; 1 changes nothing.")
]
PromptTruncationOption = Annotated[
    float, typer.Option("--prompt-truncation", help="Psi towards the prompt's own mean, applied first.")
]
NoiseOption = Annotated[
    float,
    typer.Option(
        "--noise", help="Level of noise on the upsampler's input: more lets it invent more (0 to 0.5)."
    ),
]
OutOption = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the pictures go.")]
BatchOption = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Images at a time.", show_default="what fits")
]
MemoryOption = Annotated[
    float | None,
    typer.Option(
        "--memory", metavar="GIB", help="Limit of the working memory.", show_default="half of what is free"
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu or cuda.", show_default="a GPU where there is one")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Make pictures again that are there already.")
]
AnimationOption = Annotated[
    Literal["gif", "mp4"] | None,
    typer.Option("--animate", help="Write the pictures as frames, in place of a grid."),
]
