"""What the API and the page share: limits, places in the queue, time-outs, figures."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

from PIL import Image

from gigagan_core.config.serve import ServeLimits
from gigagan_core.errors import GigaganError
from gigagan_core.inference.pictures import decode_picture
from gigagan_core.inference.recipes import Point
from gigagan_core.serving.jobs import Backend, Made, PictureJob, UpsampleJob
from gigagan_core.serving.metrics import Metrics
from gigagan_core.serving.schema import GenerateRequest, UpsampleSettings, check_prompt, check_result


class Overloaded(Exception):
    """As many requests wait as may; the message is for whoever asked."""


class TookTooLong(Exception):
    """A request was not answered in time; the message is for whoever asked."""


class Sent(NamedTuple):
    """A picture to enlarge: how, and the bytes of its file."""

    settings: UpsampleSettings
    body: bytes


class Enlarged(NamedTuple):
    """The picture as it was sent, what became of it, and what makes that again."""

    image: Image.Image
    large: Image.Image
    record: dict[str, Any]


class Studio:
    """Takes requests within the limits to the backend."""

    def __init__(self, backend: Backend, limits: ServeLimits, metrics: Metrics) -> None:
        self.backend, self.limits, self.metrics = backend, limits, metrics
        self._waiting = 0

    async def generate(self, request: GenerateRequest) -> tuple[list[PictureJob], list[Made]]:
        """What was made, and of what. Raises GigaganError, Overloaded or TookTooLong."""
        jobs = request.jobs(self.limits)
        async with self._place():
            made = await self.backend.pictures(jobs)
        self.metrics.count_batches(each.batch for each in made)
        self.metrics.pictures.labels("mix" if request.mixing else "generate").inc(len(made))
        return jobs, made

    async def upsample(self, read: Callable[[], Awaitable[Sent]]) -> Enlarged:
        """What `read` gives, enlarged. It is called within a place: bodies take memory, and who finds none sends none.

        Raises GigaganError, Overloaded or TookTooLong.
        """
        upsampler = self.backend.facts["upsampler"]
        if upsampler is None:
            raise GigaganError("the server has no upsampler; start it with --upsampler")
        async with self._place():
            settings, body = await read()
            check_prompt(settings.prompt, self.limits)
            image = await asyncio.to_thread(decode_picture, body, self.limits.picture_side)
            check_result(image.size, settings.scale or upsampler["scale"], self.limits)
            large = await self.backend.upsample(UpsampleJob(image=image, **settings.model_dump()))
        self.metrics.pictures.labels("upsample").inc()
        return Enlarged(image, large, self._upsample_record(settings))

    def record(self, job: PictureJob) -> dict[str, Any]:
        """What makes a picture again, as `gigagan generate` writes it."""
        facts = self.backend.facts
        what = job.what.model_dump(mode="json")
        record = what if isinstance(job.what, Point) else {"recipe": what}
        record = {**record, "model": _identity(facts)}
        if job.upsample:
            record |= {"upsampler": _identity(facts["upsampler"]), "noise": job.noise}
        return record

    def _upsample_record(self, settings: UpsampleSettings) -> dict[str, Any]:
        return {**settings.model_dump(), "upsampler": _identity(self.backend.facts["upsampler"])}

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """A place among those that wait, and the time that may be spent on it."""
        limits = self.limits
        if self._waiting >= limits.waiting_requests:
            raise Overloaded(
                f"{self._waiting} requests wait already; come back in {limits.retry_after_seconds} seconds"
            )
        self._waiting += 1
        self.metrics.waiting.set(self._waiting)
        try:
            async with asyncio.timeout(limits.request_seconds):
                yield
        except TimeoutError:
            raise TookTooLong(
                f"the request was not answered within {limits.request_seconds:g} seconds; ask for less, or later"
            ) from None
        finally:
            self._waiting -= 1
            self.metrics.waiting.set(self._waiting)


def _identity(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("name", "sha256")}
