"""`gigagan export`: networks as programs for torch alone, or as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.inference_options import DeviceOption, ModelEncoderOption, ModelOption
from gigagan_core.cli.options import JsonOption, StoreOption


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("export")(export)


def export(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the programs go.")],
    model: ModelOption = "latest",
    upsampler: Annotated[
        str | None,
        typer.Option(
            "--upsampler", metavar="ARTIFACT|BUNDLE", help="Export this one too.", show_default="none"
        ),
    ] = None,
    encoder: ModelEncoderOption = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="The only one the programs take; faster for large banks.",
            show_default="any",
        ),
    ] = None,
    format: Annotated[
        Literal["torch", "onnx"],
        typer.Option("--format", help="onnx needs onnx, onnxscript and onnxruntime."),
    ] = "torch",
    device: DeviceOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model through `torch.export`, its encoder and an upsampler besides; each is checked against its network.

    Programs run on the device they were exported on, and need torch alone; ONNX files are made on the CPU and run
    wherever onnxruntime does.
    """
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.inference import onnx_format
        from gigagan_core.inference.export import export_networks
        from gigagan_core.inference.outputs import OutputFolder
        from gigagan_core.inference.pipeline import GigaGANPipeline
        from gigagan_core.store.store import open_store

        folder = OutputFolder(out).folder
        if format == "onnx":
            onnx_format.require()  # before a model is loaded
            device = device or "cpu"
        pipe = GigaGANPipeline.from_pretrained(model, encoder, upsampler, device, store=open_store(store))
        large = pipe.upsampler
        models = {"base": pipe.model} | ({"upsampler": large.model} if large else {})
        document = export_networks(
            folder, pipe.network, large.network if large else None, pipe.encoder, models, batch_size, format
        )
        answer({"folder": str(folder), **document})
        for program in document["programs"].values():
            console.note(
                f"{folder / program['file']}: differs by {program['largest_difference']:.2g} at most"
            )
