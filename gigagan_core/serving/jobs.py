"""What the front asks of a replica, and what it gets. No torch here: the front needs none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from PIL import Image

from gigagan_core.inference.recipes import Interpolation, Point, PromptField, PromptMixing


@dataclass(frozen=True)
class PictureJob:
    """One picture to make.

    what: a point, or a recipe of exactly one picture. upsample: through the upsampler, with `noise` on its input.
    """

    what: Point | Interpolation | PromptMixing
    upsample: bool = False
    noise: float = 0.0


@dataclass(frozen=True)
class UpsampleJob:
    """One picture to enlarge; the fields are arguments of `TiledUpsampler`."""

    image: Image.Image
    prompt: PromptField = None
    scale: float | None = None
    seed: int = 0
    noise: float = 0.0
    truncation: float = 1.0


class Batch(NamedTuple):
    """A forward pass that has been made."""

    pictures: int
    seconds: float


@dataclass(frozen=True)
class Made:
    """A picture. cut: those of its prompts of which the encoder read the beginning only.

    batch: what it was made in, told by one picture of each batch, so that batches can be counted.
    """

    image: Image.Image
    cut: tuple[str, ...] = ()
    batch: Batch | None = None


class Backend(Protocol):
    """What makes pictures for the API and the page."""

    facts: dict[str, Any]
    """What `/v1/model` tells: see `serving.models.describe`."""

    async def pictures(self, jobs: Sequence[PictureJob]) -> list[Made]:
        """One picture a job. Raises GigaganError for what the model cannot make."""
        ...

    async def upsample(self, job: UpsampleJob) -> Image.Image:
        """The picture, enlarged. Raises GigaganError."""
        ...

    async def ready_replicas(self) -> int:
        """How many replicas serve at this moment."""
        ...
