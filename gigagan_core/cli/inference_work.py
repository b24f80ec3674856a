"""What the commands that make pictures do: load models, leave out what is done, save, say where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from gigagan_core.inference.outputs import Found, OutputFolder
    from gigagan_core.inference.pipeline import GigaGANPipeline
    from gigagan_core.inference.recipes import Point, Recipe
    from gigagan_core.inference.upsampling import TiledUpsampler, TileOptions


def load_pipeline(
    model: str, upsampler: str | None, encoder: str | None, device: str | None, store: str | None
) -> GigaGANPipeline:
    """The model, and the upsampler: the one named, or `latest` where it fits, said where not. Raises GigaganError."""
    from gigagan_core import console
    from gigagan_core.errors import GigaganError
    from gigagan_core.inference.pipeline import GigaGANPipeline, load_upsampler
    from gigagan_core.inference.places import other_size
    from gigagan_core.store.store import open_store

    opened = open_store(store)
    named = None if upsampler == "none" else upsampler
    pipe = GigaGANPipeline.from_pretrained(model, encoder, named, device, store=opened)
    if upsampler is not None:
        return pipe
    try:
        newest = load_upsampler("latest", pipe.encoder, device, store=opened)
        if said := other_size(pipe.image_size, newest.network.settings.low_size):
            raise GigaganError(f"{said}; name another with --upsampler")
        pipe.upsampler = newest
    except GigaganError as error:
        console.note(f"pictures stay at {pipe.image_size} px: {error}")
    return pipe


def read_lines(path: Path | None) -> list[str]:
    """The lines of a file that are not empty. Raises GigaganError."""
    from gigagan_core.errors import GigaganError
    from gigagan_core.text import lines

    if path is None:
        return []
    try:
        found = lines(path.expanduser().read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise GigaganError(f"--prompts {path} cannot be read ({error}); give a text file") from None
    return [line.strip() for line in found if line.strip()]


def as_prompt(model: GigaGANPipeline | TiledUpsampler, text: str) -> str | int:
    """A prompt as the model takes it: labels are written as numbers."""
    from gigagan_core.errors import GigaganError

    if model.network.settings.conditioning != "class":
        return text
    if not text.isdecimal():
        raise GigaganError(f"the model is conditioned on classes, and {text!r} is no label; give a number")
    return int(text)


def as_wanted(pipe: GigaGANPipeline, texts: Sequence[str]) -> list[str | int]:
    """Prompts as the model takes them. Raises GigaganError where it takes none, or others."""
    from gigagan_core.inference.conditions import check_prompts

    prompts = [as_prompt(pipe, text) for text in texts]
    check_prompts(pipe.network, prompts)
    return prompts


def warn_of_another_model(pipe: GigaGANPipeline, of_model: dict[str, Any] | None) -> None:
    """Say so where a recipe's pictures were made by other weights."""
    from gigagan_core import console

    if of_model and of_model.get("sha256") != pipe.model["sha256"]:
        console.warn(f"the recipe's pictures were made by model {of_model.get('name')}, not by this one")


def _made_by(pipe: GigaGANPipeline, noise: float) -> dict[str, Any]:
    """What else decides a picture, besides the point or the recipe. Raises GigaganError for noise that none takes."""
    from gigagan_core.inference.upsampling import check_noise

    check_noise(noise, pipe.upsampler is not None)
    if pipe.upsampler is None:
        return {"model": pipe.model}
    return {"model": pipe.model, "upsampler": pipe.upsampler.model, "noise": noise}


def generate(
    pipe: GigaGANPipeline,
    points: list[Point],
    folder: OutputFolder,
    noise: float,
    batch_size: int | None,
    memory: float | None,
    overwrite: bool,
) -> dict[str, Any]:
    """Make each point's picture, a batch at a time, so that what is made is kept when the command is cut off."""
    from gigagan_core import console
    from gigagan_core.inference.outputs import name_of

    made_by = _made_by(pipe, noise)
    shown = {}
    for point in points:
        record = {**point.model_dump(), **made_by}
        name = name_of(str(point.prompt), record)
        shown[name] = (point, record, not overwrite and folder.holds(name, record))
    todo = [(name, point, record) for name, (point, record, done) in shown.items() if not done]
    cut: list[str] = []
    with console.progress("generating", total=len(todo), unit="images") as bar:
        size = pipe.batch_size(batch_size, memory)
        for start in range(0, len(todo), size):
            names, batch, records = zip(*todo[start : start + size])
            made = pipe(
                [point.prompt for point in batch],
                [point.seed for point in batch],
                [point.truncation for point in batch],
                [point.prompt_truncation for point in batch],
                index=[point.index for point in batch],
                batch_size=size,
                memory_limit=memory,
                upsample=pipe.upsampler is not None,
                noise=noise,
                on_batch=bar.advance,
            )
            cut += made.cut
            for name, image, record in zip(names, made.images, records):
                folder.save(name, image, record)
    pictures = [
        {"path": str(folder.path(name)), **point.model_dump(), "made_before": done}
        for name, (point, _, done) in shown.items()
    ]
    return {**made_by, "pictures": pictures, "cut_prompts": list(dict.fromkeys(cut))}


def edit(
    pipe: GigaGANPipeline,
    recipe: Recipe,
    folder: OutputFolder,
    noise: float,
    animate: str | None,
    batch_size: int | None,
    memory: float | None,
    overwrite: bool,
) -> dict[str, Any]:
    """A recipe's grid or animation, and beside it the recipe."""
    from gigagan_core import console
    from gigagan_core.inference.animation import save_animation
    from gigagan_core.inference.editing import lay_out
    from gigagan_core.inference.outputs import name_of
    from gigagan_core.inference.recipes import Walk, save_recipe

    made_by = _made_by(pipe, noise)
    record = {"recipe": recipe.model_dump(mode="json"), **made_by}
    name = name_of(recipe.kind, record)
    animate = animate or ("gif" if isinstance(recipe, Walk) else None)
    path = folder.path(name, f".{animate}" if animate else ".png")
    # The name holds the record's sum, so an animation of that name is this one.
    done = not overwrite and (path.exists() if animate else folder.holds(name, record))
    if not done:
        sheet = lay_out(recipe, pipe)
        with console.progress(recipe.kind, total=len(sheet.styles.w), unit="images") as bar:
            edited = pipe.apply(
                sheet,
                batch_size=batch_size,
                memory_limit=memory,
                upsample=pipe.upsampler is not None,
                noise=noise,
                on_batch=bar.advance,
            )
        # the picture last: where it is there, the recipe is too
        save_recipe(folder.path(name, ".json"), recipe, pipe.model)
        if animate:
            save_animation(path, edited.images, getattr(recipe, "frames_per_second", 12.0))
        else:
            folder.save(name, edited.grid(), record)
    picture = {"path": str(path), "recipe": str(folder.path(name, ".json")), "made_before": done}
    return {**made_by, "pictures": [picture]}


def enlarge(
    upsampler: TiledUpsampler,
    found: list[Found],
    folder: OutputFolder,
    settings: dict[str, Any],
    options: TileOptions,
    overwrite: bool,
) -> dict[str, Any]:
    """Upsample what is not done yet; what cannot be is left out and listed under "failed"."""
    from gigagan_core import console
    from gigagan_core.errors import GigaganError
    from gigagan_core.inference.pictures import open_picture
    from gigagan_core.store.fingerprint import sha256_file

    records = [
        {"source": sha256_file(each.path), **settings, "tile": options.tile, "upsampler": upsampler.model}
        for each in found
    ]
    done = [not overwrite and folder.holds(each.name, record) for each, record in zip(found, records)]
    failed: list[str] = []
    pictures = []
    with console.progress("upsampling", total=len(found) - sum(done), unit="pictures") as bar:
        for each, record, before in zip(found, records, done):
            if not before:
                try:
                    large = _enlarged(upsampler, open_picture(each.path), settings, options)
                except GigaganError as error:
                    said = str(error)
                    failed.append(said if str(each.path) in said else f"picture {each.path}: {said}")
                    bar.advance(1)
                    continue
                folder.save(each.name, large, record)
                bar.advance(1)
            path = str(folder.path(each.name))
            pictures.append({"path": path, "source": str(each.path), "made_before": before})
    return {"upsampler": upsampler.model, "pictures": pictures, "failed": failed}


def _enlarged(
    upsampler: TiledUpsampler, image: Image.Image, settings: dict[str, Any], options: TileOptions
) -> Image.Image:
    (large,) = upsampler(
        image,
        settings["prompt"],
        _scale(settings, image.size),
        seed=settings["seed"],
        noise=settings["noise"],
        truncation=settings["truncation"],
        options=options,
    )
    return large


def _scale(settings: dict[str, Any], size: tuple[int, int]) -> float | None:
    from gigagan_core.errors import GigaganError

    if settings["size"] is None:
        return settings["scale"]
    if settings["size"] < max(size):
        raise GigaganError(
            f"--size {settings['size']} is below its {max(size)} px, and an upsampler does not shrink"
        )
    return settings["size"] / max(size)


def show(pictures: list[dict[str, Any]]) -> None:
    """The paths, last of all."""
    from gigagan_core import console
    from gigagan_core.text import for_terminal

    screen = console.console()
    for picture in pictures:
        before = "  [dim](made before)[/dim]" if picture["made_before"] else ""
        screen.print(
            f"picture   {for_terminal(picture['path'], 1000)}{before}", overflow="ignore", no_wrap=True
        )
