"""The way from the front to the replicas: what was accepted is made, also when a replica dies meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from gigagan_core import console
from gigagan_core.serving.batches import Batches, BatchLost, BatchRules
from gigagan_core.serving.jobs import Made, PictureJob, UpsampleJob
from gigagan_core.serving.replica import DEPLOYMENT, Refused

_STATUS_SECONDS = 0.5


class ReplicasLost(BatchLost):
    """One request has seen several replicas die, and may be what killed them."""


class ReplicaBackend:
    """The replicas of a Ray Serve application, by its handle."""

    def __init__(
        self,
        handle: Any,
        facts: dict[str, Any],
        application: str,
        batches: BatchRules,
        on_retry: Callable[[], None] = lambda: None,
    ) -> None:
        """batches: their `tries` replicas may die under one request. on_retry: told of every further try."""
        self.facts = facts
        self.on_retry = on_retry
        self._handle, self._application, self._tries = handle, application, batches.tries
        self._batches = Batches(self._send, batches)
        self._seen: tuple[float, int] = (-_STATUS_SECONDS, 0)
        self._looking = asyncio.Lock()

    async def pictures(self, jobs: Sequence[PictureJob]) -> list[Made]:
        """One picture a job, each batched with those of other requests. Raises GigaganError, or ReplicasLost."""
        return [_not_refused(answer) for answer in await self._batches.answers(jobs)]

    async def upsample(self, job: UpsampleJob) -> Image.Image:
        """The picture, enlarged. Raises GigaganError, or ReplicasLost."""
        return _not_refused(await self._ask(self._handle.upsample, job, self._tries))

    async def ready_replicas(self) -> int:
        """How many replicas serve, as the controller saw it within the last half second."""
        async with self._looking:
            if time.monotonic() - self._seen[0] > _STATUS_SECONDS:
                count = await asyncio.to_thread(self._count)
                self._seen = time.monotonic(), count
        return self._seen[1]

    def _count(self) -> int:
        from ray import serve

        found = serve.status().applications.get(self._application)
        if found is None:
            return 0
        return found.deployments[DEPLOYMENT].replica_states.get("RUNNING", 0)

    async def _send(self, jobs: list[PictureJob]) -> Sequence[Made | Refused]:
        try:
            return await self._ask(self._handle.pictures, jobs, 1)
        except BatchLost:
            raise
        except Exception as error:
            if len(jobs) == 1:
                raise
            raise BatchLost(f"{len(jobs)} pictures failed together") from error

    async def _ask(self, method: Any, argument: Any, tries: int) -> Any:
        """Ray Serve finds another replica for what no replica has taken; what one has taken down with it is ours."""
        from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError

        for _ in range(tries):
            response = method.remote(argument)
            try:
                return await response
            except (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError) as error:
                # A picture depends on its job alone: made twice, it is the same.
                console.note(f"a replica ended ({type(error).__name__}); its requests go to another one")
                self.on_retry()
            except asyncio.CancelledError:
                response.cancel()
                raise
        raise ReplicasLost(f"{self._tries} replicas ended while they worked on one request")


def _not_refused(answer: Any) -> Any:
    """Raises the GigaganError of a refusal."""
    if isinstance(answer, Refused):
        raise answer.error
    return answer
