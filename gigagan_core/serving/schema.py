"""Requests and answers of the API, and what the limits allow of them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gigagan_core.config.noise import UpsamplerNoise
from gigagan_core.config.serve import ServeLimits
from gigagan_core.errors import GigaganError
from gigagan_core.inference.recipes import Interpolation, Point, PromptField, PromptMixing, Psi
from gigagan_core.serving.jobs import PictureJob
from gigagan_core.text import plain

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class _Strict(BaseModel):
    """Unknown keys are refused: a misspelt one would be left out in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Mixing(_Strict):
    """How two prompts are mixed: blended by a share, or crossed over at a layer."""

    mix: Annotated[float, Field(ge=0.0, le=1.0)] | None = Field(
        None, description="Share of the second prompt: 0 is the first alone, 1 the second."
    )
    crossover: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="First layer of the second prompt: 0 is the second alone; /v1/model tells how many `layers`.",
    )

    @model_validator(mode="after")
    def _check(self) -> Mixing:
        if (self.mix is None) == (self.crossover is None):
            raise ValueError("give mix or crossover, one of them")
        return self


class GenerateRequest(_Strict):
    """Pictures of prompts. The same prompt, seed and place in `count` give the same picture every time."""

    prompts: list[PromptField] = Field(
        min_length=1,
        description="Captions; labels for a class-conditional model, nulls for one that takes none.",
        examples=[["a red apple"]],
    )
    seed: Seed = 0
    count: int = Field(1, ge=1, description="Pictures of each prompt, or of the mixture.")
    truncation: Psi = Field(1.0, description="Towards the mean of all prompts; 1 changes nothing.")
    prompt_truncation: Psi = Field(1.0, description="Towards the prompt's own mean, applied first.")
    upsample: bool = Field(False, description="Through the upsampler, where the server has one.")
    noise: UpsamplerNoise = Field(0.0, description="On the upsampler's input, in units of [-1, 1].")
    mixing: Mixing | None = Field(None, description="Takes exactly two prompts, and makes pictures of both.")

    @model_validator(mode="after")
    def _check(self) -> GenerateRequest:
        if self.mixing is not None and len(self.prompts) != 2:
            raise ValueError(f"mixing takes two prompts, not {len(self.prompts)}")
        if self.noise and not self.upsample:
            raise ValueError("noise is of the upsampler's input; ask with upsample, or leave it out")
        return self

    def jobs(self, limits: ServeLimits) -> list[PictureJob]:
        """One job a picture, prompt by prompt. Raises GigaganError beyond the limits."""
        pictures = self.count * (1 if self.mixing else len(self.prompts))
        if pictures > limits.pictures:
            raise GigaganError(
                f"{pictures} pictures are asked for, and a request may ask for {limits.pictures}; ask in several"
            )
        for prompt in self.prompts:
            check_prompt(prompt, limits)
        return [PictureJob(what, self.upsample, self.noise) for what in self._whats()]

    def _whats(self) -> list[Point | Interpolation | PromptMixing]:
        shared = {"truncation": self.truncation, "prompt_truncation": self.prompt_truncation}
        keys = [{"seed": self.seed, "index": index, **shared} for index in range(self.count)]
        if self.mixing is None:
            return [Point(prompt=prompt, **key) for prompt in self.prompts for key in keys]
        if self.mixing.crossover is not None:
            first, second = ([Point(prompt=prompt, **key) for key in keys] for prompt in self.prompts)
            layers = (self.mixing.crossover,)
            return [PromptMixing(first=(a,), second=(b,), layers=layers) for a, b in zip(first, second)]
        prompts, shares = tuple(self.prompts), (self.mixing.mix,)
        if any(prompt is None for prompt in prompts):
            raise GigaganError("mixing takes two prompts; give text for both")
        return [Interpolation(prompts=prompts, rows=1, columns=1, shares=shares, **key) for key in keys]


class UpsampleSettings(_Strict):
    """How a picture is enlarged."""

    prompt: PromptField = Field(None, description="What the picture shows, where that is known.")
    scale: Annotated[float, Field(ge=1.0, le=64.0)] | None = Field(
        None, description="Times larger; the upsampler's own where left out."
    )
    seed: Seed = 0
    noise: UpsamplerNoise = Field(
        0.0, description="On the input, in units of [-1, 1]: more lets it invent more."
    )
    truncation: Psi = 1.0


class UpsampleRequest(UpsampleSettings):
    """A picture in JSON; as a form, the same fields with a file `image`."""

    image: str = Field(description="A PNG, JPEG or WebP file in base64.")

    def body(self) -> bytes:
        """The picture's bytes. Raises GigaganError for what is no base64."""
        text = self.image
        if text.startswith("data:"):  # as browsers write it
            text = text.partition(",")[2]
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise GigaganError("image is no base64; send the bytes of a PNG, JPEG or WebP file so") from None


class Picture(BaseModel):
    """A picture, and what makes it again. record: stands in the PNG too."""

    png: str = Field(description="A PNG file in base64.")
    width: int
    height: int
    record: dict[str, Any]


class Pictures(BaseModel):
    """The answer. cut_prompts: those of which the encoder read the beginning only."""

    pictures: list[Picture]
    cut_prompts: list[PromptField] = []


class Failure(BaseModel):
    """Every answer that is no success."""

    error: str = Field(description="One sentence: what is wrong, and how to mend it.")


def sentence_of(problem: Mapping[str, Any]) -> str:
    """One of pydantic's problems as a sentence, without what was sent: that may be megabytes."""
    place = ".".join(str(part) for part in problem["loc"] if part != "body")
    message = problem["msg"].removeprefix("Value error, ")
    return plain(f"{place}: {message}" if place else message, 500)


def as_prompt(facts: Mapping[str, Any], text: str) -> PromptField:
    """A prompt that came as text, of a form, as a model takes it: labels are written as numbers.

    facts: the model's or the upsampler's. Raises GigaganError for what is no label where one is wanted.
    """
    if facts["conditioning"] == "text":
        return text
    if facts["conditioning"] == "none":
        return None
    if not re.fullmatch(r"\d{1,18}", text.strip()):
        raise GigaganError(
            f"the model is conditioned on classes, and {text!r:.80} is no label; give a number"
        )
    return int(text)


def check_prompt(prompt: PromptField, limits: ServeLimits) -> None:
    """Raise GigaganError for a prompt that is longer than the limit, or no text."""
    if not isinstance(prompt, str):
        return
    if len(prompt) > limits.prompt_characters:
        raise GigaganError(
            f"a prompt has {len(prompt)} characters, and at most {limits.prompt_characters} are taken; shorten it"
        )
    if any(
        "\ud800" <= character <= "\udfff" for character in prompt
    ):  # JSON can write these, no encoding can
        raise GigaganError("a prompt holds half of a surrogate pair, which is no character; send text")


def check_result(size: tuple[int, int], scale: float, limits: ServeLimits) -> None:
    """Raise GigaganError where an upsampled picture would be larger than the limit."""
    side = round(max(size) * scale)
    if side > limits.result_side:
        raise GigaganError(
            f"the result would have {side} pixels a side, and at most {limits.result_side} are made; "
            "choose a smaller scale"
        )
