"""RayJobs against a small Kubernetes API on loopback, which keeps objects and plays an operator's status changes."""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from tiny_stage import TinySettings, run

from gigagan_core import console
from gigagan_core.backends import kuberay, run_stage
from gigagan_core.backends.kuberay import KubeRayJobs, api_client
from gigagan_core.backends.manifest import name_of, ray_job
from gigagan_core.backends.remote import RemoteBackend, Unreachable, stop_jobs
from gigagan_core.backends.request import request_of
from gigagan_core.config.backend import BackendSettings, KubeRaySettings, StageOfACluster
from gigagan_core.config.base import parse
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import RunContext, StageCall
from gigagan_core.store.store import open_store

RAYJOBS = "/apis/ray.io/v1/namespaces/ml/rayjobs"
PODS = "/api/v1/namespaces/ml/pods"


class FakeKubernetes(http.server.ThreadingHTTPServer):
    """Objects by path. play: what the operator does to a new RayJob, given its manifest."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.answers: dict[str, int] = {}
        self.play: Any = lambda manifest: None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def jobs(self) -> list[dict[str, Any]]:
        return [each for path, each in list(self.objects.items()) if path.startswith(RAYJOBS)]

    def asked(self, method: str) -> list[str]:
        return [path for verb, path in self.requests if verb == method]


class Handler(http.server.BaseHTTPRequestHandler):
    server: FakeKubernetes

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, document: Any) -> None:
        body = document.encode() if isinstance(document, str) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(document, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, reason: str) -> None:
        self._answer(status, {"kind": "Status", "status": "Failure", "reason": reason, "code": status})

    def _begin(self) -> tuple[str, dict[str, list[str]]] | None:
        path, _, query = self.path.partition("?")
        self.server.requests.append((self.command, path))
        status = self.server.answers.get(self.command)
        if status is None:
            return path, urllib.parse.parse_qs(query)
        self._refuse(status, "Told to")
        return None

    def do_GET(self) -> None:
        if (begun := self._begin()) is None:
            return
        path, query = begun
        if path.endswith("/log"):
            self._answer(200, self.server.logs.get(path.split("/")[-2], ""))
        elif path in (RAYJOBS, PODS):
            wanted = dict([query["labelSelector"][0].split("=")])
            items = [
                each
                for place, each in list(self.server.objects.items())
                if place.startswith(path) and wanted.items() <= each["metadata"]["labels"].items()
            ]
            self._answer(200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})
        elif path in self.server.objects:
            self._answer(200, self.server.objects[path])
        else:
            self._refuse(404, "NotFound")

    def do_POST(self) -> None:
        if (begun := self._begin()) is None:
            return
        manifest = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = f"{begun[0]}/{manifest['metadata']['name']}"
        if path in self.server.objects:
            self._refuse(409, "AlreadyExists")
            return
        self.server.objects[path] = manifest
        self._answer(201, manifest)
        threading.Thread(target=self.server.play, args=(manifest,), daemon=True).start()

    def do_DELETE(self) -> None:
        if (begun := self._begin()) is None:
            return
        if self.server.objects.pop(begun[0], None) is None:
            self._refuse(404, "NotFound")
        else:
            self._answer(200, {"kind": "Status", "status": "Success"})


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    monkeypatch.setattr(kuberay, "POLL_SECONDS", 0.05)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = FakeKubernetes()
    yield server
    server.shutdown()
    server.server_close()


def settings(**changes: Any) -> KubeRaySettings:
    return KubeRaySettings(image="registry/gigagan:1", namespace="ml", patience_s=0.3, **changes)


@pytest.fixture
def jobs(kubernetes: FakeKubernetes) -> KubeRayJobs:
    return KubeRayJobs(settings(api_server=kubernetes.url))


def backend(jobs: KubeRayJobs) -> RemoteBackend:
    return RemoteBackend(jobs, BackendSettings(), "pf-1")


def call(**changes: Any) -> StageCall:
    return StageCall(run, TinySettings(**changes), {})


def operator(server: FakeKubernetes, status: dict[str, str] | None = None, works: bool = True) -> Any:
    """What KubeRay does: the statuses of a job, and the job itself. status: how it ends instead."""

    def play(manifest: dict[str, Any]) -> None:
        manifest["status"] = {"jobDeploymentStatus": "Initializing", "message": "pods are pending"}
        name = manifest["metadata"]["name"]
        pod = {"metadata": {"name": f"{name}-x", "namespace": "ml", "labels": {"job-name": name}}}
        server.objects[f"{PODS}/{name}-x"] = pod
        words = manifest["spec"]["entrypoint"].split()
        store, job = words[words.index("--store") + 1], words[words.index("--job") + 1]
        server.logs[f"{name}-x"] = "2025-01-01T00:00:00.000000001Z starting\n"
        manifest["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
        ended = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
        if works:
            try:
                run_stage.run(open_store(store), job)
            except Exception:
                ended = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}
        server.logs[f"{name}-x"] += "2025-01-01T00:00:00.000000002Z the last line\n"
        if works or status:
            manifest["status"] = status or ended

    return play


def test_a_stage_becomes_one_ray_job_and_its_lines_are_heard(
    kubernetes: FakeKubernetes, jobs: KubeRayJobs, context: RunContext
) -> None:
    kubernetes.play = operator(kubernetes)
    heard: list[str] = []
    with console.heard_by(heard.append):
        artifact = backend(jobs).run(call(seconds=0.3), context)  # times are kept to 1 ms
    assert (artifact.path / "word.txt").read_text() == "well"
    assert kubernetes.asked("POST") == [RAYJOBS]
    assert (heard.count("starting"), heard.count("the last line")) == (1, 1)
    (made,) = kubernetes.jobs()
    assert made["metadata"]["annotations"]["gigagan/job"] == artifact.manifest["origin"]["job"]
    assert kubernetes.asked("DELETE") == [], "KubeRay cleans up after its own time"
    # Two CPUs of the head and two of a worker, from the settings.
    hours = artifact.manifest["wall_seconds"] / 3600
    assert artifact.manifest["usage"]["cpu_hours"] == pytest.approx(4 * hours, rel=0.05)


def test_a_job_that_is_there_already_is_attached_to(
    kubernetes: FakeKubernetes, jobs: KubeRayJobs, context: RunContext
) -> None:
    request = request_of(call(), context)
    request.write(context.store, "pf-1-x")
    assert jobs.submit("pf-1-x", request, context.store.uri) is True
    assert jobs.submit("pf-1-x", request, context.store.uri) is False
    assert len(kubernetes.jobs()) == 1


def test_a_job_that_is_still_being_deleted_is_waited_for(
    kubernetes: FakeKubernetes, jobs: KubeRayJobs, context: RunContext
) -> None:
    """Cancelled and given again at once."""
    kubernetes.play = operator(kubernetes)
    request = request_of(call(), context)
    job = f"pf-1-{request.stage}-{request.key}"
    place = f"{RAYJOBS}/{name_of(job)}"
    kubernetes.objects[place] = {
        "metadata": {"name": name_of(job), "deletionTimestamp": "2026-01-01T00:00:00Z"}
    }

    def delete_once_it_was_in_the_way() -> None:
        while len(kubernetes.asked("POST")) < 2:
            time.sleep(0.01)
        del kubernetes.objects[place]

    threading.Thread(target=delete_once_it_was_in_the_way, daemon=True).start()
    artifact = backend(jobs).run(call(), context)
    assert artifact.manifest["origin"]["job"] == job
    assert kubernetes.objects[place]["status"]["jobStatus"] == "SUCCEEDED"


def test_a_submitter_that_was_killed_finds_its_job_again(
    kubernetes: FakeKubernetes, jobs: KubeRayJobs, context: RunContext
) -> None:
    kubernetes.play = operator(kubernetes)
    request = request_of(call(seconds=0.5), context)
    request.write(context.store, job := f"pf-1-{request.stage}-{request.key}")
    jobs.submit(job, request, context.store.uri)
    again = KubeRayJobs(settings(api_server=kubernetes.url))
    artifact = backend(again).run(call(seconds=0.5), context)
    assert artifact.manifest["origin"]["job"] == job
    assert len(kubernetes.asked("POST")) == 1


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (
            {
                "jobDeploymentStatus": "Failed",
                "jobStatus": "RUNNING",
                "reason": "DeadlineExceeded",
                "message": "The RayJob has passed the activeDeadlineSeconds",
            },
            "failed: DeadlineExceeded: The RayJob has passed .*; its last lines: .*the last line",
        ),
        ({"jobDeploymentStatus": "ValidationFailed", "message": "bad"}, "failed: bad"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "namespace ml stopped"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "ended without a result"),
    ],
)
def test_a_failure_says_kuberays_reason(
    kubernetes: FakeKubernetes,
    jobs: KubeRayJobs,
    context: RunContext,
    status: dict[str, str],
    sentence: str,
) -> None:
    kubernetes.play = operator(kubernetes, status, works=False)
    with pytest.raises(GigaganError, match=sentence):
        backend(jobs).run(call(), context)


def test_the_stages_own_sentence_comes_before_kuberays(
    kubernetes: FakeKubernetes, jobs: KubeRayJobs, context: RunContext
) -> None:
    kubernetes.play = operator(kubernetes)
    with pytest.raises(GigaganError, match="is bad; choose another"):
        backend(jobs).run(call(end="badly"), context)


def test_a_retry_of_kuberay_is_no_failure(kubernetes: FakeKubernetes, jobs: KubeRayJobs) -> None:
    kubernetes.objects[f"{RAYJOBS}/{name_of('a')}"] = {
        "metadata": {},
        "status": {"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED", "message": "try 2"},
    }
    state = jobs.state("a")
    assert (state.phase, state.reason) == ("waiting", "try 2")


def test_a_cancelled_run_deletes_its_jobs_and_no_other_ones(
    kubernetes: FakeKubernetes, jobs: KubeRayJobs, context: RunContext
) -> None:
    request = request_of(call(), context)
    for asker in ("pf-1", "pf-2"):
        jobs.submit(f"{asker}-{request.stage}-{request.key}", request, context.store.uri)
    ended = kubernetes.jobs()[1]
    assert stop_jobs(jobs, "pf-1") == [f"pf-1-{request.stage}-{request.key}"]
    assert kubernetes.jobs() == [ended]
    assert len(kubernetes.asked("DELETE")) == 1
    assert jobs.stop("pf-1-gone") is False


def test_an_api_that_is_away_is_waited_for_and_a_refusal_is_a_sentence(
    kubernetes: FakeKubernetes, jobs: KubeRayJobs, context: RunContext
) -> None:
    kubernetes.answers["GET"] = 503
    with pytest.raises(Unreachable):
        jobs.state("a")
    kubernetes.answers["GET"] = 403
    with pytest.raises(GigaganError, match=r"refused \(403\).*Told to"):
        jobs.state("a")
    kubernetes.answers["GET"] = 404
    kubernetes.answers["POST"] = 404
    with pytest.raises(GigaganError, match="install KubeRay"):
        backend(jobs).run(call(), context)
    gone = KubeRayJobs(settings(api_server="http://127.0.0.1:9"))
    with pytest.raises(Unreachable):
        gone.state("a")


FULL = {
    "image": "registry/gigagan:1",
    "namespace": "ml",
    "service_account": "gigagan",
    "worker_service_account": "worker",
    "env": {"GIGAGAN_HOME": "/work"},
    "env_from_secrets": ["s3", "mlflow"],
    "claims": {"/store": "shards"},
    "active_deadline_s": 600,
    "ttl_s": 30,
    "backoff_limit": 1,
    "workers": [
        {
            "name": "gpus",
            "replicas": 2,
            "cpus": 8,
            "memory_gib": 64,
            "gpus": 4,
            "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
            "node_selector": {"gpu": "h100"},
        }
    ],
}


def test_the_manifest_says_all_that_the_settings_say() -> None:
    full = parse(KubeRaySettings, FULL, "here")
    job = "pf-" + "1" * 36 + "-train-base-12345678"
    manifest = ray_job(full, job, "pf-" + "1" * 36, "train-base", ["python", "-m", "x", "--job", job])
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert len(manifest["metadata"]["name"]) <= 47
    assert all(len(value) <= 63 for value in manifest["metadata"]["labels"].values())
    spec = manifest["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    numbers = ("ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit")
    assert [spec[name] for name in numbers] == [30, 600, 1]
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"GIGAGAN_HOME": "/work"}}
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    (group,) = cluster["workerGroupSpecs"]
    assert (group["groupName"], group["replicas"], group["maxReplicas"]) == ("gpus", 2, 2)
    pod = group["template"]["spec"]
    assert pod["tolerations"][0]["key"] == "spot"
    assert pod["nodeSelector"] == {"gpu": "h100"}
    (container,) = pod["containers"]
    limits = {"cpu": "8", "memory": "65536Mi", "nvidia.com/gpu": "4"}
    assert container["resources"] == {"limits": limits, "requests": limits}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/dev/shm", "/store"}
    assert "nvidia.com/gpu" not in json.dumps(cluster["headGroupSpec"])
    submitter = spec["submitterPodTemplate"]["spec"]
    for each in (submitter, pod, cluster["headGroupSpec"]["template"]["spec"]):
        assert each["securityContext"]["runAsNonRoot"] is True
        assert each["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert each["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_head_alone_holds_credentials_and_runs_no_task() -> None:
    manifest = ray_job(parse(KubeRaySettings, FULL, "here"), "job", "asker", "ingest", ["true"])
    cluster = manifest["spec"]["rayClusterSpec"]
    head, (group,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    (driver,) = head["template"]["spec"]["containers"]
    assert [each["secretRef"]["name"] for each in driver["envFrom"]] == ["s3", "mlflow"]
    assert head["template"]["spec"]["serviceAccountName"] == "gigagan"
    assert head["rayStartParams"]["num-cpus"] == "0"
    pod = group["template"]["spec"]
    assert "secretRef" not in json.dumps(pod)
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("worker", False)


def test_the_submitter_has_the_label_that_network_policies_know_it_by() -> None:
    manifest = ray_job(parse(KubeRaySettings, FULL, "here"), "job", "asker", "ingest", ["true"])
    labels = manifest["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    assert labels["ray.io/originated-from-crd"] == "RayJob"
    assert "ray.io/is-ray-node" not in labels


def test_gpus_of_the_head_are_for_the_process_that_drives_the_stage() -> None:
    settings = {**FULL, "head": {"gpus": 1, "tolerations": [{"key": "nvidia.com/gpu"}]}}
    manifest = ray_job(parse(KubeRaySettings, settings, "here"), "job", "asker", "train-base", ["true"])
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-gpus"] == "0"
    pod = head["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu"}]


def test_a_group_is_in_the_clusters_of_its_stages() -> None:
    cpu, gpu = {"name": "cpu", "stages": ["ingest"]}, {**FULL["workers"][0], "stages": ["train-base"]}
    settings = parse(KubeRaySettings, {**FULL, "workers": [cpu, gpu, {"name": "all"}]}, "here")

    def groups(stage: str) -> list[str]:
        manifest = ray_job(settings, "job", "asker", stage, ["true"])
        return [each["groupName"] for each in manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]]

    assert (groups("ingest"), groups("train-base")) == (["cpu", "all"], ["gpus", "all"])
    assert groups("evaluate") == ["all"]
    assert KubeRayJobs(settings).held("train-base").gpus == 2 * 4
    assert KubeRayJobs(settings).held("ingest").gpus == 0
    with pytest.raises(GigaganError, match="stages"):
        parse(KubeRaySettings, {**FULL, "workers": [{"stages": ["train_base"]}]}, "here")


def test_stages_of_a_group_are_those_that_a_backend_is_asked_for() -> None:
    folder = Path(ray_job.__code__.co_filename).parents[1] / "stages"
    taking = re.compile(r"^def run\(\s*settings: ", re.MULTILINE)
    modules = {path.stem for path in folder.glob("*.py") if taking.search(path.read_text())}
    assert {name.replace("-", "_") for name in get_args(StageOfACluster)} == modules


def test_the_kubernetes_api_is_found_by_address_context_pod_kubeconfig(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kubernetes import config

    asked: list[str] = []
    monkeypatch.setattr(
        config, "load_kube_config", lambda context, **_: asked.append(f"kubeconfig {context}")
    )
    monkeypatch.setattr(config, "load_incluster_config", lambda **_: asked.append("pod"))
    api_client("http://127.0.0.1:1", None)
    assert asked == []
    api_client(None, "other")
    api_client(None, None)
    assert asked == ["kubeconfig other", "pod"]

    def nowhere(**_: Any) -> None:
        raise config.ConfigException("no pod")

    monkeypatch.setattr(config, "load_incluster_config", nowhere)
    api_client(None, None)
    assert asked[-1] == "kubeconfig None"
    monkeypatch.setattr(config, "load_kube_config", nowhere)
    with pytest.raises(GigaganError, match=r"kuberay\.api_server"):
        api_client(None, None)


def test_a_cluster_without_workers_works_on_its_head() -> None:
    alone = parse(KubeRaySettings, {**FULL, "workers": []}, "here")
    manifest = ray_job(alone, "job", "asker", "evaluate", ["true"])
    assert "num-cpus" not in manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]


def test_rays_objects_fit_into_the_shared_memory() -> None:
    manifest = ray_job(parse(KubeRaySettings, FULL, "here"), "job", "asker", "ingest", ["true"])
    cluster = manifest["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (shared,) = [each for each in group["template"]["spec"]["volumes"] if each["name"] == "shared-memory"]
        limit = int(shared["emptyDir"]["sizeLimit"].removesuffix("Mi")) * 2**20
        assert int(group["rayStartParams"]["object-store-memory"]) == limit / 2


def test_what_the_cluster_holds_is_known_from_the_settings() -> None:
    held = KubeRayJobs(parse(KubeRaySettings, FULL, "here")).held("train-base")
    assert (held.cpus, held.gpus) == (2 + 2 * 8, 2 * 4)
