"""The page for people: prompts, mixtures, upsampling. It asks the same studio as the API, and no other host."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from PIL import Image
from pydantic import ValidationError

from gigagan_core.config.noise import LARGEST_NOISE
from gigagan_core.errors import GigaganError
from gigagan_core.serving.backend import ReplicasLost
from gigagan_core.serving.schema import GenerateRequest, Mixing, UpsampleSettings, as_prompt, sentence_of
from gigagan_core.serving.studio import Overloaded, Sent, Studio, TookTooLong
from gigagan_core.text import for_html

_STYLE = Path(__file__).with_name("page.css")
# Fonts that the reader's system has: the theme's own would be fetched.
_FONTS = ("system-ui", "sans-serif")
_BLEND, _CROSS = "Blend the two", "Layout of the first, texture of the second"
_SURPRISE = 10_000


def mount_page(app: FastAPI, studio: Studio) -> FastAPI:
    """Serve the page at / of an application that has all its other routes. Gives the application."""
    return gr.mount_gradio_app(
        app,
        create_page(studio),
        "/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        # What is no sentence of ours is a defect, which the log shows and the page does not.
        show_error=False,
        max_file_size=studio.limits.body_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        theme=_theme(),
        css_paths=[_STYLE],
    )


def create_page(studio: Studio) -> gr.Blocks:
    """The page, of tabs that fit the model."""
    facts = studio.backend.facts
    # Pictures stay on disk for an hour, for who comes back to an open page.
    with gr.Blocks(
        title="GigaGAN", analytics_enabled=False, fill_width=False, delete_cache=(600, 3600)
    ) as page:
        gr.HTML(_header(facts), elem_id="gigagan-header")
        with gr.Tab("Generate"):
            _generate_tab(studio)
        if facts["conditioning"] == "text":
            with gr.Tab("Mix"):
                _mix_tab(studio)
        if facts["upsampler"] is not None:
            with gr.Tab("Upsample"):
                _upsample_tab(studio)
    page.queue(
        max_size=studio.limits.waiting_requests, default_concurrency_limit=studio.limits.waiting_requests
    )
    return page


def _theme() -> gr.themes.Base:
    theme = gr.themes.Soft(
        primary_hue="indigo", neutral_hue="slate", radius_size="lg", font=_FONTS, font_mono=("monospace",)
    )
    return theme.set(
        block_title_background_fill="transparent",
        block_title_padding="0",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_300",
        block_title_background_fill_dark="transparent",
    )


def _header(facts: dict[str, Any]) -> str:
    told = [f"{facts['image_size']} px", f"{facts['parameters']:,} parameters"]
    if facts["upsampler"] is not None:
        told.append(f"upsampler × {facts['upsampler']['scale']}")
    name = for_html(facts["name"], 80)
    return f"<h1>GigaGAN</h1><p><code>{name}</code> · {' · '.join(told)}</p>"


# ---- tabs -------------------------------------------------------------------------------------------


def _generate_tab(studio: Studio) -> None:
    facts = studio.backend.facts
    with gr.Row(elem_classes="gigagan-row"):
        with gr.Column(scale=2, min_width=300):
            prompt = _prompt_box(facts, "Prompt", "a red apple")
            seed, surprise = _seed_row()
            truncation, prompt_truncation = _truncations()
            count = gr.Slider(
                1,
                studio.limits.pictures,
                min(4, studio.limits.pictures),
                step=1,
                label="Pictures",
                buttons=[],
            )
            upsample, noise = _upsample_choice(facts)
            button = gr.Button("Generate", variant="primary", elem_id="generate")
        with gr.Column(scale=3, min_width=320):
            gallery = _gallery("generated", columns=2, height=580)

    async def generate(prompt: str, *knobs: Any) -> list[Image.Image]:
        seed, truncation, prompt_truncation, count, upsample, noise = knobs
        with _sentences():
            request = GenerateRequest(
                prompts=[as_prompt(facts, prompt)],
                seed=seed,
                count=count,
                truncation=truncation,
                prompt_truncation=prompt_truncation,
                upsample=upsample,
                noise=noise,
            )
            _, made = await studio.generate(request)
        return _images(made)

    inputs = [prompt, seed, truncation, prompt_truncation, count, upsample, noise]
    _on([button.click, prompt.submit], generate, inputs, gallery)
    surprise.click(_any_seed, None, seed, api_visibility="private").then(
        generate, inputs, gallery, api_visibility="private"
    )


def _mix_tab(studio: Studio) -> None:
    facts = studio.backend.facts
    with gr.Row(elem_classes="gigagan-row"):
        with gr.Column(scale=2, min_width=300):
            first = _prompt_box(facts, "First prompt", "a red apple")
            second = _prompt_box(facts, "Second prompt", "an old tree")
            way = gr.Radio([_BLEND, _CROSS], value=_BLEND, label="How", elem_id="way")
            mix = gr.Slider(
                0, 1, 0.5, step=0.05, label="Share of the second prompt", elem_id="mix", buttons=[]
            )
            layer = gr.Slider(
                0,
                facts["layers"],
                facts["layers"] // 2,
                step=1,
                label="Crossover layer",
                info="Coarse layers come first: 0 is the second prompt alone.",
                visible=False,
                elem_id="crossover",
                buttons=[],
            )
            seed, surprise = _seed_row()
            truncation, prompt_truncation = _truncations()
            upsample, noise = _upsample_choice(facts)
            button = gr.Button("Mix", variant="primary", elem_id="mix-button")
        with gr.Column(scale=3, min_width=320):
            gallery = _gallery("mixed", columns=3, height=230)
            gr.Markdown("Left to right: the first prompt, the mixture, the second prompt; one latent.")

    async def mixed(first: str, second: str, way: str, mix: float, layer: int, *knobs: Any) -> Any:
        seed, truncation, prompt_truncation, upsample, noise = knobs
        shared = {"truncation": truncation, "prompt_truncation": prompt_truncation, "seed": seed}
        shared |= {"upsample": upsample, "noise": noise}
        between = {"mix": mix} if way == _BLEND else {"crossover": layer}
        with _sentences():
            requests = [
                GenerateRequest(prompts=[first, second], mixing=Mixing(**mixing), **shared)
                for mixing in ({"mix": 0.0}, between, {"mix": 1.0})
            ]
            made = await asyncio.gather(*(studio.generate(request) for request in requests))
        return [image for _, each in made for image in _images(each)]

    way.change(
        lambda way: (gr.update(visible=way == _BLEND), gr.update(visible=way == _CROSS)),
        way,
        [mix, layer],
        api_visibility="private",
    )
    inputs = [first, second, way, mix, layer, seed, truncation, prompt_truncation, upsample, noise]
    _on([button.click, first.submit, second.submit, mix.release, layer.release], mixed, inputs, gallery)
    surprise.click(_any_seed, None, seed, api_visibility="private").then(
        mixed, inputs, gallery, api_visibility="private"
    )


def _upsample_tab(studio: Studio) -> None:
    facts = studio.backend.facts["upsampler"]
    factor = facts["scale"]
    with gr.Row(elem_classes="gigagan-row"):
        with gr.Column(scale=2, min_width=300):
            picture = gr.Image(
                type="filepath",
                sources=["upload", "clipboard"],
                label=f"Picture, up to {studio.limits.picture_side} px a side",
                height=260,
                elem_id="picture",
                buttons=[],
            )
            # Gradio would decode the file itself, without the checks that the API makes.
            picture.preprocess = lambda sent: None if sent is None else sent.path
            prompt = gr.Textbox(
                label=_what_it_shows(facts), visible=facts["conditioning"] != "none", max_lines=2
            )
            scale = gr.Slider(1, 2 * factor, factor, step=0.5, label="Scale", buttons=[])
            noise = _noise()
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            button = gr.Button("Upsample", variant="primary", elem_id="upsample")
        with gr.Column(scale=3, min_width=320):
            slider = gr.ImageSlider(
                label="Before, resized, and after",
                type="pil",
                format="png",
                height=460,
                interactive=False,
                elem_id="upsampled",
            )

    async def upsample(path: str | None, prompt: str, *knobs: Any) -> tuple[Image.Image, Image.Image]:
        scale, noise, seed = knobs
        with _sentences():
            if path is None:
                raise GigaganError("there is no picture yet; drop one into the field on the left")
            wanted = as_prompt(facts, prompt) if prompt else None
            settings = UpsampleSettings(prompt=wanted, scale=scale, noise=noise, seed=seed)

            async def read() -> Sent:
                return Sent(settings, await asyncio.to_thread(Path(path).read_bytes))

            made = await studio.upsample(read)
        before = made.image.convert("RGB").resize(made.large.size, Image.Resampling.BICUBIC)
        return before, made.large.convert("RGB")

    _on([button.click], upsample, [picture, prompt, scale, noise, seed], slider)


# ---- parts ------------------------------------------------------------------------------------------


def _prompt_box(facts: dict[str, Any], label: str, example: str) -> gr.Textbox:
    kinds = {
        "text": {"value": example, "label": label},
        "class": {"value": "0", "label": f"Class, 0 to {(facts['classes'] or 1) - 1}"},
        "none": {"visible": False},
    }
    return gr.Textbox(lines=2, max_lines=4, autofocus=True, **kinds[facts["conditioning"]])


def _what_it_shows(upsampler: dict[str, Any]) -> str:
    if upsampler["conditioning"] == "class":
        return f"What it shows: a class, 0 to {upsampler['classes'] - 1}"
    return "What it shows (may be left out)"


def _seed_row() -> tuple[gr.Number, gr.Button]:
    with gr.Row(equal_height=True, elem_classes="gigagan-seed"):
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, scale=3, min_width=120)
        surprise = gr.Button("New seed", size="md", scale=1, min_width=110, elem_classes="gigagan-surprise")
    return seed, surprise


def _truncations() -> tuple[gr.Slider, gr.Slider]:
    truncation = gr.Slider(
        0, 1, 1, step=0.05, label="Truncation", info="Lower: closer to the mean of all prompts.", buttons=[]
    )
    with gr.Accordion("More", open=False):
        prompt_truncation = gr.Slider(
            0,
            1,
            1,
            step=0.05,
            label="Prompt truncation",
            info="Lower: closer to this prompt's own mean.",
            buttons=[],
        )
    return truncation, prompt_truncation


def _upsample_choice(facts: dict[str, Any]) -> tuple[gr.Checkbox, gr.Slider]:
    has_one = facts["upsampler"] is not None
    return gr.Checkbox(has_one, label="Upsample", visible=has_one), _noise(visible=False)


def _noise(visible: bool = True) -> gr.Slider:
    return gr.Slider(
        0,
        LARGEST_NOISE,
        0,
        step=0.05,
        label="Noise",
        info="More lets the upsampler invent more.",
        visible=visible,
        buttons=[],
    )


def _gallery(name: str, columns: int, height: int) -> gr.Gallery:
    return gr.Gallery(
        show_label=False,
        columns=columns,
        height=height,
        object_fit="contain",
        format="png",
        interactive=False,
        elem_id=name,
        buttons=["download", "fullscreen"],
    )


def _on(events: list[Any], work: Any, inputs: list[Any], output: Any) -> None:
    gr.on(events, work, inputs, output, api_visibility="private", trigger_mode="always_last")


def _any_seed() -> int:
    return random.randrange(_SURPRISE)


def _images(made: Any) -> list[Image.Image]:
    return [each.image for each in made]


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """What is wrong, as a note on the page."""
    try:
        yield
    except ValidationError as error:
        sentence = sentence_of(error.errors()[0])
    except (GigaganError, Overloaded, TookTooLong, ReplicasLost) as error:
        sentence = str(error)
    else:
        return
    raise gr.Error(for_html(sentence, 500), print_exception=False)
