"""The one interface of all backends, and the choice of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gigagan_core.config.backend import BackendSettings
from gigagan_core.stages.base import RunContext, StageCall
from gigagan_core.store.artifact import Artifact


class Backend(Protocol):
    """Runs stages somewhere. Every one calls the same function in the end, and gives what that gives."""

    def run(self, call: StageCall, context: RunContext) -> Artifact:
        """The stage's artifact, from the store or made; `context.history` tells which.

        Raises GigaganError for what the user can mend. An interruption leaves work that the same call continues.
        """


class LocalBackend:
    """This process does the work; it is the driver of its own Ray, or of the cluster that `RAY_ADDRESS` names."""

    def run(self, call: StageCall, context: RunContext) -> Artifact:
        """See `Backend.run`."""
        return call.run(call.settings, call.inputs, context, **call.options)


def open_backend(
    settings: BackendSettings, asked_by: str | None = None, cancelled: Callable[[], bool] = lambda: True
) -> Backend:
    """The backend that the settings name. Nothing is connected before a stage has to be made.

    asked_by: who asks, such as ``pf-<flow run id>``. The same asker with the same call finds its job again; without
    one, everybody with the same call does, but for a forced job that has ended: an earlier command asked for that.
    cancelled: after SIGTERM, whether the work itself is given up, so that its job has to stop; a killed or restarted
    submitter leaves the job running. Ctrl-C always stops it.
    """
    if settings.kind == "local":
        return LocalBackend()
    from gigagan_core.backends.remote import RemoteBackend

    return RemoteBackend(open_jobs(settings), settings, asked_by, cancelled)


def open_jobs(settings: BackendSettings) -> Any:
    """The jobs (`gigagan_core.backends.remote.Jobs`) of the cluster that the settings name; not for kind local."""
    if settings.kind == "ray-job":
        from gigagan_core.backends.ray_job import RayJobs

        return RayJobs(settings.ray_job)
    from gigagan_core.backends.kuberay import KubeRayJobs

    return KubeRayJobs(settings.kuberay)
