"""`gigagan generate`, `interpolate`, `mix` and `upsample`: pictures from trained models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gigagan_core.cli import inference_work as work
from gigagan_core.cli.answer import answering
from gigagan_core.cli.inference_options import (
    AnimationOption,
    BatchOption,
    DeviceOption,
    MemoryOption,
    ModelEncoderOption,
    ModelOption,
    NeededUpsamplerOption,
    NoiseOption,
    OutOption,
    OverwriteOption,
    PromptTruncationOption,
    SeedOption,
    TruncationOption,
    UpsamplerOption,
)
from gigagan_core.cli.options import JsonOption, StoreOption


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("generate")(generate)
    app.command("interpolate")(interpolate)
    app.command("mix")(mix)
    app.command("upsample")(upsample)


def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT...", help="Captions; labels for a class-conditional model."),
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="One prompt a line, besides.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="Replay an editing recipe instead.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Pictures of each prompt.")] = 1,
    seed: SeedOption = 0,
    truncation: TruncationOption = 1.0,
    prompt_truncation: PromptTruncationOption = 1.0,
    model: ModelOption = "latest",
    upsampler: UpsamplerOption = None,
    noise: NoiseOption = 0.0,
    encoder: ModelEncoderOption = None,
    out: OutOption = Path("pictures"),
    animate: AnimationOption = None,
    batch_size: BatchOption = None,
    memory: MemoryOption = None,
    device: DeviceOption = None,
    overwrite: OverwriteOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make pictures of prompts, or of a recipe. What is there already is not made again."""
    with answering(as_json) as answer:
        from gigagan_core.errors import GigaganError
        from gigagan_core.inference.outputs import OutputFolder
        from gigagan_core.inference.recipes import load_recipe

        wanted = [*(prompts or []), *work.read_lines(prompts_file)]
        if wanted and recipe:
            raise GigaganError("prompts and --recipe were given; give one of them, not both")
        if not wanted and not recipe:
            raise GigaganError(
                "nothing says what to make; give prompts, --prompts FILE with one a line, or --recipe FILE"
            )
        folder = OutputFolder(out)
        # What is wrong with a file is said before a model is loaded.
        steps, of_model = load_recipe(recipe) if recipe else (None, None)
        pipe = work.load_pipeline(model, upsampler, encoder, device, store)
        if steps is not None:
            work.warn_of_another_model(pipe, of_model)
            document = work.edit(pipe, steps, folder, noise, animate, batch_size, memory, overwrite)
        else:
            points = [
                point
                for prompt in work.as_wanted(pipe, wanted)
                for point in pipe.points(
                    [prompt] * count, seed, truncation, prompt_truncation, list(range(count))
                )
            ]
            document = work.generate(pipe, points, folder, noise, batch_size, memory, overwrite)
        answer(document)
        work.show(document["pictures"])


def interpolate(
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT PROMPT [PROMPT PROMPT]", help="Ends, or four corners.")
    ],
    columns: Annotated[int, typer.Option("--columns", min=2, help="Pictures across.")] = 7,
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="Pictures down.", show_default="1, or 5 of corners")
    ] = None,
    seed: SeedOption = 0,
    truncation: TruncationOption = 1.0,
    prompt_truncation: PromptTruncationOption = 1.0,
    animate: AnimationOption = None,
    model: ModelOption = "latest",
    upsampler: UpsamplerOption = None,
    noise: NoiseOption = 0.0,
    encoder: ModelEncoderOption = None,
    out: OutOption = Path("pictures"),
    batch_size: BatchOption = None,
    memory: MemoryOption = None,
    device: DeviceOption = None,
    overwrite: OverwriteOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw what lies between two prompts, or between four at the corners of a grid, from one latent."""
    with answering(as_json) as answer:
        from gigagan_core.config.base import parse
        from gigagan_core.inference.outputs import OutputFolder
        from gigagan_core.inference.recipes import Interpolation

        fields = {
            "rows": rows or (5 if len(prompts) == 4 else 1),
            "columns": columns,
            "seed": seed,
            "truncation": truncation,
            "prompt_truncation": prompt_truncation,
        }
        parse(Interpolation, {"prompts": prompts, **fields}, "interpolate")
        folder = OutputFolder(out)
        pipe = work.load_pipeline(model, upsampler, encoder, device, store)
        recipe = Interpolation(prompts=tuple(work.as_wanted(pipe, prompts)), **fields)
        document = work.edit(pipe, recipe, folder, noise, animate, batch_size, memory, overwrite)
        answer(document)
        work.show(document["pictures"])


def mix(
    first: Annotated[str, typer.Argument(metavar="LAYOUT", help="Prompt of the coarse layers.")],
    second: Annotated[
        str | None,
        typer.Argument(metavar="[TEXTURE]", help="Prompt of the fine layers; left out: the same."),
    ] = None,
    layer: Annotated[
        list[int] | None,
        typer.Option(
            "--layer",
            help="Where the second prompt takes over. Repeat for more columns.",
            show_default="every one",
        ),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Repeat for more rows.")] = None,
    second_seed: Annotated[
        int | None,
        typer.Option(
            "--second-seed",
            help="Latent of the fine layers.",
            show_default="the same, or the next of one prompt",
        ),
    ] = None,
    words: Annotated[
        Literal["both", "first"],
        typer.Option("--words", help="first: mix the styles alone, and every layer reads the first prompt."),
    ] = "both",
    truncation: TruncationOption = 1.0,
    prompt_truncation: PromptTruncationOption = 1.0,
    animate: AnimationOption = None,
    model: ModelOption = "latest",
    upsampler: UpsamplerOption = None,
    noise: NoiseOption = 0.0,
    encoder: ModelEncoderOption = None,
    out: OutOption = Path("pictures"),
    batch_size: BatchOption = None,
    memory: MemoryOption = None,
    device: DeviceOption = None,
    overwrite: OverwriteOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mix two prompts, or two latents of one: layout from the first, texture from the second."""
    with answering(as_json) as answer:
        from gigagan_core.inference.editing import check_layers
        from gigagan_core.inference.outputs import OutputFolder
        from gigagan_core.inference.recipes import PromptMixing

        folder = OutputFolder(out)
        pipe = work.load_pipeline(model, upsampler, encoder, device, store)
        check_layers(pipe.network, layer or ())
        prompts = work.as_wanted(pipe, [first, first if second is None else second])
        seeds = seed or [0]
        others = [one + (second is None) if second_seed is None else second_seed for one in seeds]
        psis = [truncation] * len(seeds), [prompt_truncation] * len(seeds)
        recipe = PromptMixing(
            first=tuple(pipe.points([prompts[0]] * len(seeds), seeds, *psis)),
            second=tuple(pipe.points([prompts[1]] * len(seeds), others, *psis)),
            layers=tuple(layer or range(pipe.num_layers + 1)),
            words=words,
        )
        document = work.edit(pipe, recipe, folder, noise, animate, batch_size, memory, overwrite)
        answer(document)
        work.show(document["pictures"])


def upsample(
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURE|FOLDER|GLOB...", help="What to enlarge.")],
    scale: Annotated[
        float | None,
        typer.Option("--scale", help="Times larger, 1 or more.", show_default="the upsampler's"),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=1, help="In place of --scale: the longer side, in pixels.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="What the pictures show; a class-conditional upsampler wants a label.",
            show_default="nothing is known",
        ),
    ] = None,
    noise: NoiseOption = 0.0,
    seed: SeedOption = 0,
    truncation: TruncationOption = 1.0,
    upsampler: NeededUpsamplerOption = "latest",
    encoder: ModelEncoderOption = None,
    out: OutOption = Path("upsampled"),
    tile: Annotated[
        int | None, typer.Option("--tile", help="Side of a tile.", show_default="as trained")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option("--precision", help="Of the tiles.")
    ] = "float32",
    batch_size: BatchOption = None,
    memory: MemoryOption = None,
    device: DeviceOption = None,
    overwrite: OverwriteOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enlarge pictures of any kind and size. What is there already is not made again.

    Every result is a PNG of the same name in --out. A picture that cannot be decoded or enlarged is left
    out, and said at the end.
    """
    with answering(as_json) as answer:
        from gigagan_core.errors import GigaganError
        from gigagan_core.inference.outputs import OutputFolder, find_pictures
        from gigagan_core.inference.pipeline import load_upsampler
        from gigagan_core.inference.upsampling import TileOptions, check_noise
        from gigagan_core.store.store import open_store

        if scale is not None and size is not None:
            raise GigaganError("--scale and --size were given; give one of them")
        check_noise(noise)
        found = find_pictures(pictures, leave_out=out.expanduser())
        folder = OutputFolder(out)
        network = load_upsampler(upsampler, encoder, device, store=open_store(store))
        settings = {"scale": scale, "size": size, "noise": noise, "seed": seed, "truncation": truncation}
        settings["precision"] = precision
        settings["prompt"] = None if prompt is None else work.as_prompt(network, prompt)
        network.named([settings["prompt"]])  # what is wrong with it is so for every picture
        options = TileOptions(tile, batch_size, memory, precision)
        document = work.enlarge(network, found, folder, settings, options, overwrite)
        answer(document)
        work.show(document["pictures"])
        if document["failed"]:
            failed = document["failed"]
            sentence = f"{len(failed)} of {len(found)} pictures were left out; the first: {failed[0]}"
            answer.now({**document, "error": sentence})  # what was made is there
            raise GigaganError(sentence)
