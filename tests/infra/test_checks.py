"""`infra/check.py`: every file passes, and a typo in any kind of file does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.conftest import INFRA, ROOT, load

FAULTS = [
    ("yaml style", "alerts.yaml", "  - name: gigagan-data", "  -  name: gigagan-data", "too many spaces"),
    ("compose", "compose.yaml", "    healthcheck:", "    healthchek:", "healthchek"),
    ("compose", "compose.yaml", "condition: service_healthy", "condition: service_healty", "service_healty"),
    ("dockerfiles", "docker/Dockerfile", "COPY flows flows", "COPPY flows flows", "unexpected"),
    ("dockerfiles", "docker/Dockerfile", "USER 0:0", "USER 0:0\nRUN cd /tmp", "DL3003"),
    ("dockerfiles", "docker/s3.Dockerfile", "versitygw:v1.7.0", "versitygw:latest", "DL3007"),
    ("shell", "deploy.sh", '"$(dirname "$0")/.."', "$(dirname $0)/..", "SC2046"),
    ("shell", "compose/init-databases.sh", "--dbname=postgres", "--dbname=$POSTGRES_DB", "SC2086"),
    ("kubernetes", "kubernetes/raycluster.yaml", "rayStartParams:", "rayStartParam:", "rayStartParam"),
    (
        "kubernetes",
        "kubernetes/raycluster.yaml",
        "secretName: ray-token",
        "secretNme: ray-token",
        "secretNme",
    ),
    ("kubernetes", "kubernetes/raycluster.yaml", "tolerations:", "toleration:", "toleration"),
    ("kubernetes", "kubernetes/raycluster.yaml", "version: v2", "version: v3", "v3"),
    ("kubernetes", "kubernetes/raycluster.yaml", "ray.io/v1", "ray.io/v2", "has no RayCluster"),
    ("kubernetes", "kubernetes/exporter.yaml", "  replicas: 1", "  replica: 1", "replica"),
    ("kubernetes", "kubernetes/exporter.yaml", "runAsNonRoot: true", "runAsNonRot: true", "runAsNonRot"),
    ("kubernetes", "kubernetes/redis.yaml", "serviceName: redis", "servicename: redis", "servicename"),
    ("kubernetes", "kubernetes/network-policies.yaml", "podSelector: {}", "podSelectors: {}", "podSelector"),
    ("kubernetes", "kubernetes/network-policies.yaml", "except: [169", "excpt: [169", "excpt"),
    ("kubernetes", "kubernetes/service-accounts.yaml", "verbs: [create", "verb: [create", "verb"),
    ("kubernetes", "kubernetes/disruption-budgets.yaml", "minAvailable", "minAvailabe", "minAvailabe"),
    (
        "kustomization",
        "kubernetes/kustomization.yaml",
        "generatorOptions",
        "generatorOption",
        "generatorOption",
    ),
    ("kustomization", "kubernetes/kustomization.yaml", "  - redis.yaml\n", "", "leaves out redis.yaml"),
    ("helm values", "helm/prefect-server.yaml", "existingSecret", "existingSecrets", "existingSecrets"),
    ("helm values", "helm/prefect-worker.yaml", "jobNamespace", "jobNamspace", "jobNamspace"),
    ("helm values", "helm/mlflow.yaml", "app_name: basic-auth", "app_name: basic_auth", "basic-auth"),
    ("helm values", "helm/mlflow.yaml", "secretKeyRef", "secretKeyref", "secretKeyref"),
    ("helm values", "helm/kuberay-operator.yaml", "watchNamespace", "watchNamespaces", "watchNamespaces"),
    ("schemas", "schemas/ray.io-v1.yaml", "type: object", "type: objct", "objct"),
    ("json", "kubernetes/backend.json", '"kuberay",', '"kuberay"', "delimiter"),
    ("work pool", "kubernetes/work-pool.json", '"backoffLimit"', '"backofLimit"', "backofLimit"),
    ("work pool", "kubernetes/work-pool.json", "{{ gpus }}", "{{ gpu }}", "gpu is used and not defined"),
    ("work pool", "kubernetes/work-pool.json", '"completions": 1,', "", "no completions"),
    (
        "work pool",
        "kubernetes/work-pool.json",
        "{{ stream_output }}",
        "true",
        "stream_output is defined and not used",
    ),
    ("alerts", "alerts.yaml", "severity: warning", "severity: warn", "warn"),
    ("alerts", "alerts.yaml", "expr: gigagan_store_up", "expr: gigagan_stor_up", "gigagan_stor_up"),
    ("alerts", "alerts.yaml", "predict_linear(", "predict_line(", "predict_line is no function"),
    ("alerts", "alerts.yaml", "[10m]", "[10x]", "10x"),
    ("alerts", "alerts.yaml", "sum by (instance) (ray", "sum by (instance) ray", "do not meet"),
    ("alert tests", "alerts.test.yaml", "eval_time: 40m", "evaltime: 40m", "evaltime"),
    (
        "alert tests",
        "alerts.test.yaml",
        'alertname="StoreErrors"',
        'alertname="StoreError"',
        "no alert StoreError",
    ),
    ("prometheus", "compose/prometheus.yaml", "job_name: ray", "jobname: ray", "jobname"),
    ("prometheus", "kubernetes/scrape.yaml", "action: keep", "action: kep", "kep"),
    ("variables", ".env.example", "S3_SECRET_KEY=", "S3_SECRET=", "S3_SECRET_KEY"),
    ("variables", "kubernetes/site.env", "RAY_AUTH_MODE=", "RAY_AUTH_MODE =", "NAME=value"),
]


@pytest.mark.parametrize("name", [each.name for each in load("check").CHECKS])
def test_every_file_passes_its_check(check, name: str) -> None:
    (chosen,) = [each for each in check.CHECKS if each.name == name]
    assert check.problems(chosen, ROOT) == []


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "sentence"), FAULTS, ids=[f"{fault[0]}: {fault[3]}" for fault in FAULTS]
)
def test_a_planted_fault_is_found(check, planted, name, file, old, new, sentence) -> None:
    (chosen,) = [each for each in check.CHECKS if each.name == name]
    found = check.problems(chosen, planted(file, old, new))
    assert any(sentence in line for line in found), found


def test_every_check_and_every_file_has_a_planted_fault(check) -> None:
    assert {fault[0] for fault in FAULTS} == {each.name for each in check.CHECKS}
    named = {INFRA / fault[1] for fault in FAULTS}
    # Of one kind with files that have theirs: the test below goes through all of these.
    manifests = set(check.MANIFESTS.files(ROOT)) | set((INFRA / "schemas").glob("*.yaml"))
    looked_at = {path for each in check.CHECKS if each.name != "yaml style" for path in each.files(ROOT)}
    same_kind = {INFRA / "install.sh", INFRA / "compose" / "backend.json"}
    assert looked_at - named - manifests - same_kind == set()


@pytest.mark.parametrize("path", load("check").MANIFESTS.files(ROOT), ids=lambda path: path.name)
def test_a_misspelt_key_in_any_manifest_is_found(check, planted, path: Path) -> None:
    root = planted(f"kubernetes/{path.name}", "metadata:", "metadat:")
    assert any("metadat" in line for line in check.problems(check.MANIFESTS, root))


def test_what_kubectl_makes_of_it_is_looked_at_where_there_is_kubectl(
    check, planted, monkeypatch, capsys
) -> None:
    (chosen,) = [each for each in check.CHECKS if each.name == "kustomization"]
    monkeypatch.setattr(check.shutil, "which", lambda name: None)
    assert check.problems(chosen, ROOT) == []
    assert "kubectl is not on the PATH" in capsys.readouterr().out
    root = planted("kubernetes/kustomization.yaml", "  - redis.yaml\n", "")
    assert check.problems(chosen, root) == ["kustomization.yaml leaves out redis.yaml"]


def test_the_standing_cluster_may_be_left_out_as_a_whole(check, planted, monkeypatch) -> None:
    (chosen,) = [each for each in check.CHECKS if each.name == "kustomization"]
    monkeypatch.setattr(check.shutil, "which", lambda name: None)
    root = planted("kubernetes/kustomization.yaml", "  - redis.yaml\n  - raycluster.yaml\n", "")
    path = root / "infra" / "kubernetes" / "kustomization.yaml"
    path.write_text(path.read_text().replace("  - disruption-budgets.yaml\n", ""))
    assert check.problems(chosen, root) == []
    header = (INFRA / "kubernetes" / "raycluster.yaml").read_text().partition("apiVersion")[0]
    assert {name for name in check.STANDING_CLUSTER if name in header or name == "raycluster.yaml"} == (
        check.STANDING_CLUSTER
    )
    path.write_text(path.read_text().replace("  - exporter.yaml\n", ""))
    assert check.problems(chosen, root) == ["kustomization.yaml leaves out exporter.yaml"]


def test_a_program_that_is_missing_is_one_clear_sentence(check) -> None:
    assert list(check._program(ROOT, "hadolinter")) == ["hadolinter is not installed; run `make install`"]


def test_a_file_that_no_check_looks_at_is_found(check, planted) -> None:
    root = planted("README.md", "#", "#")
    (root / "infra" / "kubernetes" / "new.tf").write_text("")
    (root / "infra" / "grafana.ini").write_text("")
    assert check.unchecked(ROOT) == []
    assert check.unchecked(root) == ["infra/grafana.ini", "infra/kubernetes/new.tf"]


def test_the_command_says_what_is_wrong_and_fails(planted) -> None:
    root = planted("kubernetes/raycluster.yaml", "groupName: gpu", "groupNam: gpu")
    done = subprocess.run(
        [sys.executable, str(INFRA / "check.py"), "--root", str(root)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "infra/kubernetes/raycluster.yaml: RayCluster gigagan" in done.stderr
    assert "groupNam" in done.stderr


def test_lint_runs_it() -> None:
    assert (
        "infra/check.py" in (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\nformat:")[0]
    )
    assert "make lint" in (ROOT / ".ci" / "run").read_text()
