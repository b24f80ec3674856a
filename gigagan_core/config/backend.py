"""Where the work of a stage is done, and what it costs there. None of it decides a result."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from gigagan_core.config.base import Settings, operational, parse, with_overrides
from gigagan_core.errors import GigaganError, nearest

BackendKind = Literal["local", "ray-job", "kuberay"]
StageOfACluster = Literal[
    "ingest",
    "import-data",
    "train-encoder",
    "curate",
    "train-base",
    "train-upsampler",
    "evaluate",
    "tradeoff",
]
"""Stages that KubeRay makes a cluster for, as a job's name has them."""
FILE_VARIABLE = "GIGAGAN_BACKEND"
"""Environment variable that names a JSON file of `BackendSettings`: what a site's machines start from."""


class PriceSettings(Settings):
    """What an hour costs. 0: unknown, and then no cost is shown."""

    gpu_hour: float = operational(0.0, ge=0)
    cpu_hour: float = operational(0.0, ge=0)
    currency: str = operational("USD", pattern=r"[A-Z]{3}")


class RayJobSettings(Settings):
    """A Ray cluster that runs already. Each stage is a job on it."""

    address: str | None = operational(None)
    """Of the cluster's dashboard, such as http://ray-head:8265. None: `RAY_API_SERVER_ADDRESS`."""

    python: str = operational("python")
    """The interpreter on the cluster that has this package."""

    store: str | None = operational(None)
    """The store's URI as the cluster sees it. None: the same."""

    env: dict[str, str] = operational({})
    """Variables of the job. Everybody who sees the dashboard sees them: secrets belong into the nodes' environment."""

    runtime_env: dict[str, Any] = operational({})
    """More of Ray's runtime environment, such as working_dir."""

    entrypoint_cpus: float = operational(0.0, ge=0)
    """What Ray sets aside for the process that drives the stage. A trainer takes all CPUs, and would wait for ever for
    one that its own driver holds."""

    patience_s: float = operational(600.0, gt=0)
    """How long the cluster may be out of reach before the wait ends; the job itself goes on."""


class PodSettings(Settings):
    """One kind of pod."""

    cpus: float = operational(2.0, gt=0)
    memory_gib: float = operational(8.0, gt=0)
    gpus: int = operational(0, ge=0)
    gpu_resource: str = operational("nvidia.com/gpu")
    shared_memory_gib: float = operational(2.0, ge=0)
    """Of /dev/shm, where Ray keeps objects; it counts as memory of the pod."""

    node_selector: dict[str, str] = operational({})
    tolerations: tuple[dict[str, Any], ...] = operational(())
    """As Kubernetes writes them, e.g. {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}."""


class WorkerGroupSettings(PodSettings):
    """Equal worker pods of a RayJob's cluster."""

    name: str = operational("workers", pattern=r"[a-z]([-a-z0-9]*[a-z0-9])?", max_length=30)
    replicas: int = operational(1, ge=0)
    stages: tuple[StageOfACluster, ...] = operational(())
    """Whose clusters have this group, e.g. ("train-base", "train-upsampler"); none named: every stage's. A stage that
    no group is for works on the head."""


class KubeRaySettings(Settings):
    """A cluster of its own for each stage, which KubeRay makes and takes down."""

    image: str | None = operational(None)
    """Of head and workers: this project with its lock. Needed."""

    ray_version: str = operational("2.60.0")
    namespace: str = operational("default")
    service_account: str | None = operational(None)
    """Of the head, whose process drives the stage: where the cloud gives identities, the one that reaches the store."""

    worker_service_account: str | None = operational(None)
    """Of the workers, which fetch from the web: one without rights and without a cloud identity."""

    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = operational("IfNotPresent")
    image_pull_secrets: tuple[str, ...] = operational(())

    head: PodSettings = operational(PodSettings())
    workers: tuple[WorkerGroupSettings, ...] = operational((WorkerGroupSettings(),))

    env: dict[str, str] = operational({})
    env_from_secrets: tuple[str, ...] = operational(())
    """Names of Secrets whose keys become variables of the head: credentials of the store and of MLflow. Workers get
    none: they read and write mounted volumes."""

    group: int = operational(1000, ge=1)
    """Number of the group that the image's user is in, and that mounted volumes are given to."""

    claims: dict[str, str] = operational({})
    """Mount path -> name of a PersistentVolumeClaim, where the store is a shared file system."""

    store: str | None = operational(None)
    """The store's URI as the pods see it. None: the same."""

    active_deadline_s: int = operational(86_400, ge=1)
    """After so many seconds KubeRay ends the job; the stage then goes on from its last checkpoint when run again."""

    ttl_s: int = operational(300, ge=0)
    """Seconds that the pods of a finished job stay, to be looked at."""

    backoff_limit: int = operational(0, ge=0)
    """How often KubeRay starts a failed job anew, on a new cluster."""

    api_server: str | None = operational(None)
    """Address of the Kubernetes API, e.g. of `kubectl proxy`. None: the pod's service account, or kubeconfig."""

    context: str | None = operational(None)
    """Of kubeconfig; None: the current one."""

    patience_s: float = operational(600.0, gt=0)
    """How long the Kubernetes API may be out of reach before the wait ends; the job itself goes on."""


class BackendSettings(Settings):
    """local: this process, with its own Ray or that of `RAY_ADDRESS`. ray-job, kuberay: as their settings say."""

    kind: BackendKind = operational("local")
    ray_job: RayJobSettings = operational(RayJobSettings())
    kuberay: KubeRaySettings = operational(KubeRaySettings())
    prices: PriceSettings = operational(PriceSettings())

    @model_validator(mode="after")
    def _complete(self) -> BackendSettings:
        if self.kind == "kuberay" and self.kuberay.image is None:
            raise ValueError("kuberay needs an image with this project; give kuberay.image")
        return self


class HeldSettings(Settings):
    """What a stage holds while it runs."""

    cpus: float = Field(ge=0)
    gpus: float = Field(ge=0)


def backend_settings(kind: str | None = None, overrides: Sequence[str] | None = None) -> BackendSettings:
    """The file that `GIGAGAN_BACKEND` names, or the defaults, with KEY=VALUE changes and this kind.

    Raises GigaganError for a kind that there is not, for a file that cannot be read, and for an unknown key.
    """
    values: dict[str, Any] = {}
    place = os.environ.get(FILE_VARIABLE)
    if place:
        try:
            values = json.loads(Path(place).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GigaganError(f"{FILE_VARIABLE} {place} cannot be read: {error}; name a JSON file") from None
    chosen = kind or values.pop("kind", "local")
    if chosen not in get_args(BackendKind):
        raise GigaganError(f"there is no backend {chosen!r}; {nearest(str(chosen), get_args(BackendKind))}")
    base = parse(BackendSettings, {**values, "kind": "local"}, f"{FILE_VARIABLE} {place}")
    # The kind comes last: what it needs may be among the changes.
    return with_overrides(base, [*(overrides or ()), f"kind={chosen}"], "--backend-set")
