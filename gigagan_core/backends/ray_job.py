"""Jobs of a Ray cluster that runs already, through Ray's Jobs API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import threading
from collections.abc import Callable, Iterator
from typing import Any

from gigagan_core import environment
from gigagan_core.backends.remote import POLL_SECONDS, JobState, Unreachable
from gigagan_core.backends.request import Request, as_command
from gigagan_core.config.backend import HeldSettings, RayJobSettings
from gigagan_core.errors import GigaganError
from gigagan_core.text import plain

ADDRESS = "RAY_API_SERVER_ADDRESS"
_PHASES = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "stopped",
}


class RayJobs:
    """See `gigagan_core.backends.remote.Jobs`. Ray is imported and asked on first use.

    Where the cluster asks for a token, Ray's own variables say where it is: `RAY_AUTH_MODE=token`, `RAY_AUTH_TOKEN` or
    `RAY_AUTH_TOKEN_PATH`.
    """

    def __init__(self, settings: RayJobSettings):
        self._settings = settings
        address = settings.address or os.environ.get(ADDRESS)
        if not address:
            raise GigaganError(
                f"backend ray-job needs the cluster's address; give ray_job.address=http://HOST:8265, or set {ADDRESS}"
            )
        self._address = address
        self._connected: Any = None
        self.name = f"Ray at {address}"
        self.store = settings.store
        self.patience = settings.patience_s

    def held(self, stage: str) -> HeldSettings | None:
        """Unknown beforehand: the job asks its cluster."""
        return None

    def state(self, job: str) -> JobState | None:
        """See `Jobs.state`."""
        info = self._ask(lambda: self._client().get_job_info(job))
        if info is None:
            return None
        phase: Any = _PHASES[str(info.status.value)]
        code = f"exit code {info.driver_exit_code}, " if info.driver_exit_code else ""
        # Ray's message repeats the last lines, which are followed anyway.
        message = plain(str(info.message or "").partition("Last available logs")[0], 400)
        return JobState(phase, f"{code}{message}" if phase in ("failed", "waiting") else "")

    def submit(self, job: str, request: Request, store: str) -> bool:
        """See `Jobs.submit`."""
        settings = self._settings
        asked = dict(settings.runtime_env)
        variables = {**asked.pop("env_vars", {}), **settings.env}
        try:
            self._ask(
                lambda: self._client().submit_job(
                    submission_id=job,
                    entrypoint=shlex.join(as_command(settings.python, store, job)),
                    runtime_env={**asked, "env_vars": variables},
                    metadata={"gigagan.stage": request.stage, "gigagan.key": request.key},
                    entrypoint_num_cpus=settings.entrypoint_cpus,
                )
            )
        except GigaganError as error:
            if "already" in str(error) and self.state(job) is not None:
                return False
            raise
        return True

    def follow(self, job: str, tell: Callable[[str], None], done: threading.Event) -> None:
        """See `Jobs.follow`. A connection that breaks is made again; lines told are not told twice."""
        lines = _Lines(tell)
        while not done.is_set():
            lines.begin_again()
            try:
                asyncio.run(self._tail(job, lines, done))
                lines.finish()
                return
            except Exception:  # the log is for the reader; the job's state is asked for elsewhere
                done.wait(POLL_SECONDS)

    async def _tail(self, job: str, lines: _Lines, done: threading.Event) -> None:
        stream = self._client().tail_job_logs(job)

        async def read() -> None:
            async for chunk in stream:
                lines.add(chunk)

        reading = asyncio.ensure_future(read())
        while not reading.done() and not done.is_set():
            await asyncio.wait([reading], timeout=POLL_SECONDS)
        if not reading.done():
            reading.cancel()
            return
        reading.result()

    def stop(self, job: str) -> bool:
        """See `Jobs.stop`. Ray sends SIGTERM, and SIGKILL after `RAY_JOB_STOP_WAIT_TIME_S`."""
        return bool(self._ask(lambda: self._client().stop_job(job)))

    def of(self, asker: str) -> list[str]:
        """See `Jobs.of`."""
        found = self._ask(lambda: self._client().list_jobs()) or []
        named = [(info.submission_id or "", _PHASES[str(info.status.value)]) for info in found]
        return [
            job for job, phase in named if job.startswith(f"{asker}-") and phase in ("waiting", "running")
        ]

    def _client(self) -> Any:
        if self._connected is None:
            environment.set_defaults()
            from ray.job_submission import JobSubmissionClient

            # It would tell every connection's end among the job's lines.
            logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
            with _environment_without(ADDRESS, "RAY_ADDRESS"):
                self._connected = JobSubmissionClient(self._address)
        return self._connected

    def _ask(self, ask: Callable[[], Any]) -> Any:
        """The answer, or None for what does not exist. Raises `Unreachable`, or GigaganError for a refusal."""
        import requests

        try:
            return ask()
        except (ConnectionError, requests.exceptions.RequestException, TimeoutError) as error:
            raise Unreachable(plain(error)) from None
        except RuntimeError as error:
            said = plain(error, 600)
            if "status code 404" in said or "does not exist" in said:
                return None
            if "status code 5" in said and "already" not in said:
                raise Unreachable(said) from None
            raise GigaganError(f"{self.name} refused: {said}") from None
        except Exception as error:  # ray has an exception of its own for a missing or wrong token
            raise GigaganError(
                f"{self.name} cannot be used ({plain(error)}); check its address, RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH"
            ) from None


class _Lines:
    """Chunks of text as whole lines, those of an earlier connection left out."""

    def __init__(self, tell: Callable[[str], None]):
        self._tell = tell
        self._told = self._seen = 0
        self._rest = ""

    def begin_again(self) -> None:
        """The text comes from its beginning once more."""
        self._seen, self._rest = 0, ""

    def add(self, chunk: str) -> None:
        *whole, self._rest = (self._rest + chunk).split("\n")
        for line in whole:
            self._line(line)

    def finish(self) -> None:
        """What has no line end is a line too."""
        if self._rest:
            self._line(self._rest)

    def _line(self, line: str) -> None:
        self._seen += 1
        if self._seen > self._told:
            self._told = self._seen
            self._tell(line.rstrip("\r"))


@contextlib.contextmanager
def _environment_without(*names: str) -> Iterator[None]:
    """Ray lets these variables overrule the address that it is given."""
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)
