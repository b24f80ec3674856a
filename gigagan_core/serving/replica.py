"""A Ray Serve deployment: processes that hold the model and make the pictures of one batch after another."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from gigagan_core.config.serve import ServeSettings
from gigagan_core.errors import GigaganError
from gigagan_core.inference.recipes import Point
from gigagan_core.serving.jobs import Made, PictureJob, UpsampleJob
from gigagan_core.serving.models import ServedModels

DEPLOYMENT = "pictures"


@dataclass(frozen=True)
class Refused:
    """Why a request is not answered with pictures, in one sentence: raised by the front, since the replica goes on."""

    error: GigaganError


class Replica:
    """One copy of the model. All its work is done in one thread, so that health checks are answered meanwhile."""

    def __init__(self, models: ServedModels, settings: ServeSettings, threads: int) -> None:
        """threads: of torch, this replica's share of the cores."""
        import torch

        from gigagan_core.serving.models import describe

        torch.set_num_threads(threads)
        self._settings = settings
        self._pipe = models.open()
        self._facts = describe(self._pipe, models)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._warm_up()

    async def facts(self) -> dict[str, Any]:
        """What is served, and by which process."""
        return {**self._facts, "process": os.getpid()}

    async def pictures(self, jobs: Sequence[PictureJob]) -> list[Made | Refused]:
        """A batch: what became of each job. One that this model cannot make leaves the others alone."""
        answers = [self._refusal(job) for job in jobs]
        sound = [place for place, refused in enumerate(answers) if refused is None]
        if sound:
            for place, answer in zip(sound, await self._made([jobs[place] for place in sound]), strict=True):
                answers[place] = answer
        return answers

    async def _made(self, jobs: list[PictureJob]) -> list[Made | Refused]:
        """In one pass, or one by one where they cannot be made together: one of them may be the reason."""
        from gigagan_core.serving.painting import make_pictures

        try:
            return await self._in_thread(make_pictures, self._pipe, jobs, self._settings.max_batch_size)
        except GigaganError as error:
            if len(jobs) == 1:
                return [Refused(error)]
        return [answer for job in jobs for answer in await self._made([job])]

    def _refusal(self, job: PictureJob) -> Refused | None:
        from gigagan_core.serving.painting import check

        try:
            check(self._pipe, job)
        except GigaganError as error:
            return Refused(error)
        return None

    async def upsample(self, job: UpsampleJob) -> Image.Image | Refused:
        """One picture, enlarged; its tiles are its batch."""
        from gigagan_core.serving.painting import enlarge

        try:
            return await self._in_thread(enlarge, self._pipe, job)
        except GigaganError as error:
            return Refused(error)

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _warm_up(self) -> None:
        """Pay for the first call's costs before anybody waits for it."""
        from gigagan_core.serving.painting import make_pictures

        settings = self._pipe.network.settings
        prompt = {"text": "", "class": 0, "none": None}[settings.conditioning]
        job = PictureJob(Point(prompt=prompt), upsample=self._pipe.upsampler is not None)
        for count in (1, self._settings.max_batch_size):
            make_pictures(self._pipe, [job] * count, self._settings.max_batch_size)


def share(replicas: int, cores: int, gpus: int) -> dict[str, float]:
    """What Ray is to reserve for one replica: its part of one machine's cores, and of the GPUs of all."""
    # More replicas than cores share them, and Ray takes fractions below one alone.
    reserved: dict[str, float] = {"num_cpus": cores // replicas or cores / replicas}
    if gpus:
        # A replica does not lie across two GPUs, so three of them do not share two evenly.
        reserved["num_gpus"] = 1 / -(-replicas // gpus)
    return reserved


def application(models: ServedModels, settings: ServeSettings, cores: int, gpus: int) -> Any:
    """The application to `serve.run`. cores: of a machine, gpus: of all machines; the replicas share them."""
    from ray import serve

    limits = settings.limits
    deployed = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=settings.replicas,
        # The front refuses what is too much. Pictures come a batch at a time, what is upsampled comes at once.
        max_ongoing_requests=limits.waiting_requests,
        ray_actor_options=share(settings.replicas, cores, 0 if models.device == "cpu" else gpus),
        # A dead process is seen by the next check. A batch on a CPU keeps its own thread busy, not the checks'.
        health_check_period_s=1.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=5.0,
        # A model that cannot be opened cannot be opened the next time either.
        max_constructor_retry_count=2,
    )(Replica)
    return deployed.bind(models, settings, max(1, cores // settings.replicas))
