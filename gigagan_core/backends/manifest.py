"""A RayJob (ray.io/v1) from settings: a cluster for one stage, which is taken down when the stage has ended."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gigagan_core.config.backend import KubeRaySettings, PodSettings, WorkerGroupSettings
from gigagan_core.store.fingerprint import digest

GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"
ASKER, STAGE, JOB = "gigagan/asker", "gigagan/stage", "gigagan/job"
"""Labels and, for the id, which is too long for one, an annotation."""
SUBMITS_A_RAYJOB = {"ray.io/originated-from-crd": "RayJob"}
"""On the pod that submits, which network policies know by it: not every KubeRay labels more than that pod's Job."""
_SHARED = "shared-memory"
# What Kubernetes' standard "restricted" asks of a container; `_pod_security` is the pod's part.
_CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def name_of(job: str) -> str:
    """The name of a job's RayJob; ids are too long: KubeRay takes 47 letters, and adds more for its pods."""
    return f"gigagan-{digest(job)[:16]}"


def label_of(asker: str) -> str:
    """An asker as the value of a label, at most 63 letters."""
    return asker if len(asker) <= 63 else digest(asker)[:40]


def groups_of(settings: KubeRaySettings, stage: str) -> list[WorkerGroupSettings]:
    """The worker groups of a stage's cluster."""
    return [group for group in settings.workers if not group.stages or stage in group.stages]


def ray_job(
    settings: KubeRaySettings, job: str, asker: str, stage: str, command: Sequence[str]
) -> dict[str, Any]:
    """The manifest. Secrets are named, and never in it."""
    labels, groups = {ASKER: label_of(asker), STAGE: stage}, groups_of(settings, stage)
    head = _pod(settings, settings.head, "ray-head", labels)
    if settings.service_account:
        head["spec"]["serviceAccountName"] = settings.service_account
    (driver,) = head["spec"]["containers"]
    driver["envFrom"] = [{"secretRef": {"name": name}} for name in settings.env_from_secrets]
    driver["ports"] = [
        {"name": name, "containerPort": port}
        for name, port in (("gcs-server", 6379), ("dashboard", 8265), ("client", 10001))
    ]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayJob",
        "metadata": {
            "name": name_of(job),
            "namespace": settings.namespace,
            "labels": labels,
            "annotations": {JOB: job},
        },
        "spec": {
            "entrypoint": shlex.join(command),
            "submissionMode": "K8sJobMode",
            "runtimeEnvYAML": yaml.safe_dump({"env_vars": settings.env}),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": settings.ttl_s,
            "activeDeadlineSeconds": settings.active_deadline_s,
            "backoffLimit": settings.backoff_limit,
            # A submitter that is started again would submit the same job again.
            "submitterConfig": {"backoffLimit": 0},
            "submitterPodTemplate": {
                "metadata": {"labels": {**labels, **SUBMITS_A_RAYJOB}},
                "spec": _submitter(settings),
            },
            "rayClusterSpec": {
                "rayVersion": settings.ray_version,
                # Whoever reaches Ray's ports runs code: every call carries a token that KubeRay makes.
                "authOptions": {"mode": "token"},
                "headGroupSpec": {"rayStartParams": _start_of_head(settings.head, groups), "template": head},
                "workerGroupSpecs": [
                    {
                        "groupName": group.name,
                        "replicas": group.replicas,
                        "minReplicas": group.replicas,
                        "maxReplicas": max(group.replicas, 1),
                        "rayStartParams": _objects(group),
                        "template": _worker(settings, group, labels),
                    }
                    for group in groups
                ],
            },
        },
    }


def _start_of_head(head: PodSettings, groups: Sequence[WorkerGroupSettings]) -> dict[str, str]:
    """Tasks fetch from the web and decode what they get: where there are workers, none runs beside the credentials.

    GPUs of the head are for the process that drives the stage, which needs no resource of Ray's to see them.
    """
    away = {"num-cpus": "0", "num-gpus": "0"} if any(group.replicas for group in groups) else {}
    return {"dashboard-host": "0.0.0.0", **away, **_objects(head)}


def _objects(pod: PodSettings) -> dict[str, str]:
    """Half of /dev/shm for Ray's objects, the rest for NCCL and PyTorch.

    Ray's default, 30 % of the memory, may be more than all of it: then Ray uses the disk or, over 10 GB, refuses.
    """
    return {"object-store-memory": str(int(pod.shared_memory_gib * 2**29))} if pod.shared_memory_gib else {}


def _worker(
    settings: KubeRaySettings, group: WorkerGroupSettings, labels: Mapping[str, str]
) -> dict[str, Any]:
    """A pod without Secrets and without a token of the Kubernetes API."""
    pod = _pod(settings, group, "ray-worker", labels)
    pod["spec"]["automountServiceAccountToken"] = False
    if settings.worker_service_account:
        pod["spec"]["serviceAccountName"] = settings.worker_service_account
    return pod


def _submitter(settings: KubeRaySettings) -> dict[str, Any]:
    """The pod that submits the job and repeats its lines; KubeRay adds the command and the token."""
    return {
        "restartPolicy": "Never",
        "securityContext": _pod_security(settings),
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "containers": [
            {
                "name": "ray-job-submitter",
                "image": settings.image,
                "imagePullPolicy": settings.image_pull_policy,
                "resources": {
                    "limits": {"cpu": "1", "memory": "1Gi"},
                    "requests": {"cpu": "500m", "memory": "512Mi"},
                },
                "securityContext": _CONTAINER_SECURITY,
            }
        ],
    }


def _pod_security(settings: KubeRaySettings) -> dict[str, Any]:
    return {
        "runAsNonRoot": True,
        "fsGroup": settings.group,
        # A volume of millions of files is looked at once, not at each start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _pod(
    settings: KubeRaySettings, pod: PodSettings, container: str, labels: Mapping[str, str]
) -> dict[str, Any]:
    memory = f"{round(pod.memory_gib * 1024)}Mi"
    resources: dict[str, Any] = {"cpu": f"{pod.cpus:g}", "memory": memory}
    if pod.gpus:
        resources[pod.gpu_resource] = str(pod.gpus)
    claims = {f"claim-{number}": place for number, place in enumerate(sorted(settings.claims))}
    spec: dict[str, Any] = {
        "containers": [
            {
                "name": container,
                "image": settings.image,
                "imagePullPolicy": settings.image_pull_policy,
                # Ray counts CPUs and memory by the limits; equal requests keep pods from being evicted first.
                "resources": {"limits": resources, "requests": dict(resources)},
                "env": [{"name": name, "value": value} for name, value in sorted(settings.env.items())],
                "volumeMounts": [
                    {"name": _SHARED, "mountPath": "/dev/shm"},
                    *({"name": volume, "mountPath": place} for volume, place in claims.items()),
                ],
                "securityContext": _CONTAINER_SECURITY,
            }
        ],
        "securityContext": _pod_security(settings),
        "volumes": [
            {
                "name": _SHARED,
                "emptyDir": {"medium": "Memory", "sizeLimit": f"{round(pod.shared_memory_gib * 1024)}Mi"},
            },
            *(
                {"name": volume, "persistentVolumeClaim": {"claimName": settings.claims[place]}}
                for volume, place in claims.items()
            ),
        ],
        "nodeSelector": dict(pod.node_selector),
        "tolerations": [dict(each) for each in pod.tolerations],
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
    }
    return {"metadata": {"labels": dict(labels)}, "spec": spec}
