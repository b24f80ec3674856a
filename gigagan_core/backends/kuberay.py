"""Jobs as RayJobs of KubeRay, through the Kubernetes API.

The service account needs, in its namespace: rayjobs.ray.io get, list, create, delete; pods list; pods/log get.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from gigagan_core.backends.manifest import (
    ASKER,
    GROUP,
    JOB,
    PLURAL,
    VERSION,
    groups_of,
    label_of,
    name_of,
    ray_job,
)
from gigagan_core.backends.remote import POLL_SECONDS, JobState, Unreachable
from gigagan_core.backends.request import Request, as_command
from gigagan_core.config.backend import HeldSettings, KubeRaySettings
from gigagan_core.errors import GigaganError
from gigagan_core.text import plain

REQUEST_SECONDS = 30
_CONFLICT, _NOT_FOUND = 409, 404


class KubeRayJobs:
    """See `gigagan_core.backends.remote.Jobs`."""

    def __init__(self, settings: KubeRaySettings):
        self._settings = settings
        self._api: Any = None
        self.name = f"KubeRay in namespace {settings.namespace}"
        self.store = settings.store
        self.patience = settings.patience_s

    def held(self, stage: str) -> HeldSettings | None:
        """Every pod of the stage's cluster, from the job's start to its end."""
        pods = [
            (1, self._settings.head),
            *((group.replicas, group) for group in groups_of(self._settings, stage)),
        ]
        return HeldSettings(
            cpus=sum(number * pod.cpus for number, pod in pods),
            gpus=sum(number * pod.gpus for number, pod in pods),
        )

    def state(self, job: str) -> JobState | None:
        """See `Jobs.state`. What KubeRay does with the job decides, since a failed try may be followed by another."""
        found = self._ask(
            lambda: self._objects().get_namespaced_custom_object(
                *self._place(), name_of(job), _request_timeout=REQUEST_SECONDS
            )
        )
        if found is None or "deletionTimestamp" in found["metadata"]:
            return None
        status = found.get("status") or {}
        deployment, phase = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
        reason = ": ".join(plain(status[key], 400) for key in ("reason", "message") if status.get(key))
        if deployment in ("Failed", "ValidationFailed"):
            return JobState("failed", reason or deployment)
        if deployment == "Complete":
            ended = {"SUCCEEDED": "succeeded", "STOPPED": "stopped"}.get(phase, "failed")
            return JobState(ended, reason if ended != "succeeded" else "")  # type: ignore[arg-type]
        if phase == "RUNNING":
            return JobState("running")
        return JobState("waiting", reason or f"{deployment or 'not seen by KubeRay yet'}")

    def submit(self, job: str, request: Request, store: str) -> bool:
        """See `Jobs.submit`."""
        command = as_command("python", store, job)
        manifest = ray_job(self._settings, job, _asker(job, request), request.stage, command)
        made = self._ask(
            lambda: self._objects().create_namespaced_custom_object(
                *self._place(), manifest, _request_timeout=REQUEST_SECONDS
            ),
            otherwise={_CONFLICT: False},
        )
        if made is None:
            raise GigaganError(
                f"{self.name}: there are no RayJobs; install KubeRay's operator, and see that the namespace exists"
            )
        return made is not False

    def follow(self, job: str, tell: Callable[[str], None], done: threading.Event) -> None:
        """See `Jobs.follow`: the lines of the pod that submits the job, which repeats what the job prints."""
        last = ""
        while True:
            is_last = done.is_set()
            try:
                for line in self._lines(job):
                    when, _, text = line.partition(" ")
                    # Times have nine digits behind the point, so they compare as they are written.
                    if when > last:
                        last = when
                        tell(text)
                state = self.state(job)
            except (Unreachable, GigaganError):  # the log is for the reader; the state is asked for elsewhere
                state = JobState("running")
            if is_last or state is None or state.is_over:
                return
            done.wait(POLL_SECONDS)

    def _lines(self, job: str) -> list[str]:
        core = self._core()
        pods = self._ask(
            lambda: core.list_namespaced_pod(
                self._settings.namespace,
                label_selector=f"job-name={name_of(job)}",
                _request_timeout=REQUEST_SECONDS,
            )
        )
        lines: list[str] = []
        for pod in pods.items if pods else ():
            log = self._ask(
                lambda pod=pod: core.read_namespaced_pod_log(
                    pod.metadata.name,
                    self._settings.namespace,
                    timestamps=True,
                    _request_timeout=REQUEST_SECONDS,
                ),
                otherwise={400: ""},  # the container has not started
            )
            lines += (log or "").splitlines()
        return lines

    def stop(self, job: str) -> bool:
        """See `Jobs.stop`: the RayJob is deleted, and with it its cluster."""
        gone = self._ask(
            lambda: self._objects().delete_namespaced_custom_object(
                *self._place(),
                name_of(job),
                propagation_policy="Background",
                _request_timeout=REQUEST_SECONDS,
            )
        )
        return gone is not None

    def of(self, asker: str) -> list[str]:
        """See `Jobs.of`."""
        found = self._ask(
            lambda: self._objects().list_namespaced_custom_object(
                *self._place(), label_selector=f"{ASKER}={label_of(asker)}", _request_timeout=REQUEST_SECONDS
            )
        )
        jobs = [each["metadata"]["annotations"][JOB] for each in (found or {}).get("items", ())]
        return [job for job in jobs if (state := self.state(job)) is not None and not state.is_over]

    def _place(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self._settings.namespace, PLURAL

    def _objects(self) -> Any:
        from kubernetes import client

        return client.CustomObjectsApi(self._connected())

    def _core(self) -> Any:
        from kubernetes import client

        return client.CoreV1Api(self._connected())

    def _connected(self) -> Any:
        if self._api is None:
            self._api = api_client(self._settings.api_server, self._settings.context)
        return self._api

    def _ask(self, ask: Callable[[], Any], otherwise: dict[int, Any] | None = None) -> Any:
        """The answer; `otherwise` by HTTP status, None for what is not there. Raises Unreachable or GigaganError."""
        import urllib3
        from kubernetes.client.exceptions import ApiException

        try:
            return ask()
        except ApiException as error:
            if error.status in (otherwise or {}):
                return otherwise[error.status]  # type: ignore[index]
            if error.status == _NOT_FOUND:
                return None
            said = plain(error.body or error.reason, 600)
            if error.status in (0, 429) or error.status >= 500:
                raise Unreachable(said) from None
            raise GigaganError(f"{self.name}: the Kubernetes API refused ({error.status}): {said}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(plain(error)) from None


def api_client(api_server: str | None, context: str | None) -> Any:
    """A `kubernetes.client.ApiClient` without retries of its own: each would wait, and ours say that they wait.

    api_server: its address. Without one: by the context of kubeconfig, where it is given, else by the pod's service
    account, else by kubeconfig's current context. Raises GigaganError where none of them leads anywhere.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    configuration.retries = 0
    if api_server:
        configuration.host = api_server
    elif context is not None or not _in_cluster(configuration):
        try:
            config.load_kube_config(context=context, client_configuration=configuration)
        except (config.ConfigException, OSError) as error:
            raise GigaganError(
                f"no way to the Kubernetes API: {plain(error)}; run in a pod with a service account, set KUBECONFIG, "
                "or give kuberay.api_server"
            ) from None
    return client.ApiClient(configuration)


def _in_cluster(configuration: Any) -> bool:
    """Whether this is a pod with a service account, which the configuration then uses."""
    from kubernetes import config

    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        return False
    return True


def _asker(job: str, request: Request) -> str:
    return job.partition(f"-{request.stage}-{request.key}")[0]
