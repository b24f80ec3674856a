"""A backend that paints in one colour, for the front; the small models of `tests/inference`, for the rest."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from gigagan_core.config.serve import ServeLimits
from gigagan_core.serving.api import create_app
from gigagan_core.serving.jobs import Batch, Made, PictureJob, UpsampleJob
from gigagan_core.serving.metrics import Metrics
from gigagan_core.serving.studio import Studio

FACTS: dict[str, Any] = {
    "name": "tiny",
    "sha256": "0" * 64,
    "image_size": 16,
    "conditioning": "text",
    "classes": None,
    "layers": 5,
    "parameters": 1000,
    "encoder": {"sha256": "1" * 64, "context_length": 8},
    "upsampler": {
        "name": "larger",
        "sha256": "2" * 64,
        "scale": 4,
        "conditioning": "text",
        "classes": None,
        "licence": {},
        "card": "",
    },
    "licence": {"data": "CC BY-SA 4.0"},
    "card": "# card",
}
LIMITS = ServeLimits(
    prompt_characters=40,
    pictures=4,
    picture_side=64,
    result_side=256,
    body_bytes=20_000,
    body_seconds=5,
    waiting_requests=2,
    request_seconds=5,
)


class FakeBackend:
    """Makes pictures of one colour, after `seconds`; notes what it was asked for; raises `failure`."""

    def __init__(self) -> None:
        self.facts = FACTS
        self.seconds, self.replicas = 0.0, 1
        self.failure: Exception | None = None
        self.jobs: list[PictureJob] = []
        self.enlarged: list[UpsampleJob] = []

    async def pictures(self, jobs: Sequence[PictureJob]) -> list[Made]:
        await self._work()
        self.jobs += jobs
        batch = Batch(len(jobs), 0.5)
        return [
            Made(Image.new("RGB", (16, 16), (place, 2, 3)), (), batch if place == 0 else None)
            for place in range(len(jobs))
        ]

    async def upsample(self, job: UpsampleJob) -> Image.Image:
        await self._work()
        self.enlarged.append(job)
        scale = job.scale or 4
        return job.image.resize((round(job.image.width * scale), round(job.image.height * scale)))

    async def ready_replicas(self) -> int:
        return self.replicas

    async def _work(self) -> None:
        await asyncio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def studio(backend: FakeBackend) -> Studio:
    return Studio(backend, LIMITS, Metrics())


@pytest.fixture
def client(studio: Studio) -> TestClient:
    return TestClient(create_app(studio), raise_server_exceptions=False)


def encoded(size: tuple[int, int] = (10, 6), kind: str = "PNG") -> bytes:
    """A picture file of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, (200, 100, 50)).save(out, kind)
    return out.getvalue()
