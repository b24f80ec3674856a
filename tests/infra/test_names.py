"""Names that infra/ shares with the code and with other tools: nobody but the user would find one misspelt."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gigagan_core import servers
from gigagan_core.backends.kuberay import KubeRayJobs
from gigagan_core.backends.manifest import ray_job
from gigagan_core.config.backend import backend_settings
from tests.infra.conftest import INFRA, ROOT

SITE = dict(
    line.split("=", 1) for line in (INFRA / "kubernetes" / "site.env").read_text().splitlines() if line
)
# Of botocore, PostgreSQL's image, Versity's gateway, and those that a command beside them reads.
OTHERS = {
    *("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    *("AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"),
    *("POSTGRES_PASSWORD", "PREFECT_DB_PASSWORD", "MLFLOW_DB_PASSWORD"),
    *("ROOT_ACCESS_KEY_ID", "ROOT_SECRET_ACCESS_KEY"),
    *("MLFLOW_AUTH_DATABASE", "REDIS_PASSWORD", "HOME", "DO_NOT_TRACK"),
}


def variables(compose) -> set[str]:
    found = {name for service in compose["services"].values() for name in service.get("environment", {})}
    pool = json.loads((INFRA / "kubernetes" / "work-pool.json").read_text())
    found |= set(pool["variables"]["properties"]["env"]["default"]) | set(SITE)
    for path in [*(INFRA / "helm").glob("*.yaml"), *(INFRA / "kubernetes").glob("*.yaml")]:
        found |= set(re.findall(r"- name: ([A-Z][A-Z0-9_]+)$", path.read_text(), flags=re.MULTILINE))
    return found


def prefect_settings() -> set[str]:
    """Every variable that a setting of Prefect can be given by, older names included."""
    from prefect.settings.models.root import Settings
    from pydantic import AliasChoices
    from pydantic_settings import BaseSettings

    found: set[str] = set()

    def walk(model: type[BaseSettings]) -> None:
        prefix = model.model_config.get("env_prefix", "")
        for name, field in model.model_fields.items():
            found.add(f"{prefix}{name}".upper())
            if isinstance(field.validation_alias, AliasChoices):
                found.update(str(choice).upper() for choice in field.validation_alias.choices)
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseSettings):
                walk(field.annotation)

    walk(Settings)
    return found


def sources(package: str, *parts: str) -> str:
    """The Python text of parts of an installed package."""
    folder = Path(importlib.metadata.distribution(package).locate_file(package))
    return "\n".join(path.read_text() for part in parts for path in (folder / part).rglob("*.py"))


def test_every_variable_is_one_that_somebody_reads(compose) -> None:
    from mlflow import environment_variables

    texts = {
        "GIGAGAN_": "".join(path.read_text() for path in (ROOT / "gigagan_core").rglob("*.py")),
        "MLFLOW_": sources("mlflow", "server", "cli", "tracking"),
        "RAY_": sources("ray", "_private", "_common"),
    }
    known = prefect_settings() | set(dir(environment_variables))
    for name in sorted(variables(compose) - OTHERS - known):
        (text,) = [text for prefix, text in texts.items() if name.startswith(prefix)]
        assert f'"{name}"' in text, name


def test_telemetry_is_off_as_in_the_code(compose) -> None:
    from gigagan_core.environment import _SWITCHES

    for service in ("worker", "ray-head", "ray-worker", "prefect", "mlflow", "exporter"):
        told = compose["services"][service]["environment"]
        for name in ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "RAY_USAGE_STATS_ENABLED"):
            assert told[name] == SITE[name] == _SWITCHES[name], (service, name)


def literals(name: str) -> dict[str, str]:
    """The variables of a ConfigMap that kustomization.yaml spells out."""
    made = yaml.safe_load((INFRA / "kubernetes" / "kustomization.yaml").read_text())["configMapGenerator"]
    (found,) = [each for each in made if each["name"] == name]
    return dict(each.split("=", 1) for each in found["literals"])


def config_maps(container: dict[str, Any]) -> list[str]:
    return [each["configMapRef"]["name"] for each in container["envFrom"] if "configMapRef" in each]


def test_runs_of_a_site_have_the_patience_of_runs_of_a_worker(compose, manifests) -> None:
    patience = servers._PATIENCE
    of_the_store = {name: value for name, value in patience.items() if name.startswith("AWS_")}
    assert of_the_store.keys() < patience.keys()
    for service in ("worker", "ray-head"):
        told = compose["services"][service]["environment"]
        assert {name: told.get(name) for name in patience} == patience, service
    assert literals("patience") == patience
    pool = json.loads((INFRA / "kubernetes" / "work-pool.json").read_text())
    pod = pool["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    (cluster,) = [each for each in manifests if each["kind"] == "RayCluster"]
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    for each in (pod, head):
        assert "patience" in config_maps(each["containers"][0])
    kuberay = json.loads((INFRA / "kubernetes" / "backend.json").read_text())["kuberay"]
    assert {name: kuberay["env"].get(name) for name in of_the_store} == of_the_store


def test_the_exporter_sees_an_outage_at_once(compose, manifests) -> None:
    assert not servers._PATIENCE.keys() & compose["services"]["exporter"]["environment"].keys()
    assert not servers._PATIENCE.keys() & SITE.keys()
    (exporter,) = [
        each for each in manifests if (each["kind"], each["metadata"]["name"]) == ("Deployment", "exporter")
    ]
    assert config_maps(exporter["spec"]["template"]["spec"]["containers"][0]) == ["site"]


def test_links_between_the_pages_lead_where_a_browser_gets(compose) -> None:
    names = ("GIGAGAN_MLFLOW_UI_URL", "PREFECT_UI_URL")
    published = {
        port.rsplit(":", 1)[0] for each in compose["services"].values() for port in each.get("ports", ())
    }
    for name in names:
        assert compose["services"]["worker"]["environment"][name].removeprefix("http://") in published
        assert SITE[name].startswith("http://localhost:")
    readme = (INFRA / "README.md").read_text()
    assert "service/mlflow 5000:5000" in readme
    assert "service/prefect-server 4200:4200" in readme


def test_work_pools_are_those_of_the_deployments() -> None:
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    pools = {deployment["work_pool"]["name"] for deployment in deployed}
    made = set(re.findall(r"work-pool create (\w+)", (INFRA / "deploy.sh").read_text()))
    assert made == {"local", "kubernetes"}
    assert pools <= made
    worker = yaml.safe_load((INFRA / "helm" / "prefect-worker.yaml").read_text())["worker"]["config"]
    assert worker["workPool"] == "kubernetes"
    compose_worker = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]["worker"]["command"]
    assert compose_worker[compose_worker.index("--pool") + 1] == "local"


def test_job_variables_of_the_deployments_are_those_of_the_work_pool() -> None:
    known = json.loads((INFRA / "kubernetes" / "work-pool.json").read_text())["variables"]["properties"]
    for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        pool = deployment["work_pool"]
        if pool["name"] == "kubernetes":
            assert set(pool.get("job_variables") or {}) <= set(known), deployment["name"]


def test_versions_are_those_of_the_lock(manifests) -> None:
    (cluster,) = [each for each in manifests if each["kind"] == "RayCluster"]
    assert cluster["spec"]["rayVersion"] == importlib.metadata.version("ray")
    kuberay = json.loads((INFRA / "kubernetes" / "backend.json").read_text())["kuberay"]
    assert kuberay["ray_version"] == importlib.metadata.version("ray")
    values = {path.stem: yaml.safe_load(path.read_text()) for path in (INFRA / "helm").glob("*.yaml")}
    prefect = importlib.metadata.version("prefect")
    assert values["prefect-server"]["global"]["prefect"]["image"]["prefectTag"] == f"{prefect}-python3.11"
    assert values["prefect-worker"]["worker"]["image"]["prefectTag"] == f"{prefect}-python3.11-kubernetes"
    assert values["mlflow"]["image"]["tag"] == f"v{importlib.metadata.version('mlflow')}-full"


@pytest.mark.parametrize("file", ["compose/backend.json", "kubernetes/backend.json"])
def test_the_backend_of_a_site_is_one_that_the_code_takes(file: str, monkeypatch) -> None:
    monkeypatch.setenv("GIGAGAN_BACKEND", str(INFRA / file))
    settings = backend_settings()
    assert settings.kind == json.loads((INFRA / file).read_text())["kind"]
    if settings.kind == "kuberay":
        assert settings.kuberay.namespace == "gigagan"
        assert settings.kuberay.claims == {"/var/lib/gigagan": "home"}


@pytest.fixture
def rayjob(monkeypatch) -> dict[str, Any]:
    """What the backend of infra/kubernetes makes of an ingest."""
    monkeypatch.setenv("GIGAGAN_BACKEND", str(INFRA / "kubernetes" / "backend.json"))
    return ray_job(backend_settings().kuberay, "job", "asker", "ingest", ["python", "-m", "json.tool"])


@pytest.mark.parametrize(
    ("stage", "gpus"),
    [("ingest", 0), ("curate", 0), ("train-base", 1), ("train-upsampler", 1), ("evaluate", 0)],
)
def test_a_training_has_a_gpu_of_the_shipped_backend_and_an_ingest_holds_none(
    stage: str, gpus: int, monkeypatch
) -> None:
    monkeypatch.setenv("GIGAGAN_BACKEND", str(INFRA / "kubernetes" / "backend.json"))
    settings = backend_settings().kuberay
    assert KubeRayJobs(settings).held(stage).gpus == gpus
    groups = ray_job(settings, "job", "asker", stage, ["true"])["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pods = [group["template"]["spec"] for group in groups]
    on_gpu_nodes = [
        pod for pod in pods if any("nvidia.com/gpu" in each["key"] for each in pod["tolerations"])
    ]
    assert len(on_gpu_nodes) == gpus
    for pod in on_gpu_nodes:
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_submitter_of_a_rayjob_is_known_to_the_network_policies(manifests, rayjob) -> None:
    labels = rayjob["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    policies = {
        each["metadata"]["name"]: each["spec"] for each in manifests if each["kind"] == "NetworkPolicy"
    }
    wanted = policies["ray-submitter"]["podSelector"]["matchLabels"]
    assert wanted.items() <= labels.items()
    (rule,) = policies["ray-jobs"]["ingress"]
    assert any(peer.get("podSelector", {}).get("matchLabels") == wanted for peer in rule["from"])


def test_rayjobs_of_the_backend_fit_kuberay(check, rayjob) -> None:
    assert list(check.manifest_problems(rayjob)) == []
    rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["container"] = []
    assert list(check.manifest_problems(rayjob))


def test_download_pods_of_a_rayjob_hold_no_credential_and_are_those_that_reach_the_web(rayjob) -> None:
    (group,) = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["template"]["metadata"]["labels"]["gigagan/stage"] == "ingest"
    pod = group["template"]["spec"]
    assert "secretRef" not in json.dumps(pod)
    assert "secretKeyRef" not in json.dumps(pod)
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("ray-worker", False)


def test_every_metric_of_the_alerts_is_one_that_is_served(exporter) -> None:
    text = (INFRA / "alerts.yaml").read_text()
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    used = set(re.findall(r"\b(?:ray|gigagan)_\w+", " ".join(rule["expr"] for rule in rules)))
    folder = Path(importlib.metadata.distribution("ray").locate_file("ray"))
    reporter = (folder / "dashboard" / "modules" / "reporter" / "reporter_agent.py").read_text()
    panels = "".join(
        path.read_text()
        for path in (folder / "dashboard" / "modules" / "metrics" / "dashboards").glob("*.py")
    )
    for name in used:
        if name.startswith("gigagan_"):
            assert name in exporter.METRICS, name
        else:
            assert f'"{name.removeprefix("ray_")}"' in reporter or f"{name}{{" in panels, name
    assert 'RayNodeType": ray_node_type' in reporter


def test_no_two_alerts_share_a_name_and_each_tells_what_to_do() -> None:
    rules = [
        rule
        for group in yaml.safe_load((INFRA / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names) >= 15
    assert all(len(rule["annotations"]["description"]) > 40 for rule in rules)


def test_jobs_that_the_alerts_name_are_scraped_on_both_sites() -> None:
    text = (INFRA / "alerts.yaml").read_text()
    named = set(re.findall(r'job="(\w+)"', text))
    for file in ("compose/prometheus.yaml", "kubernetes/scrape.yaml"):
        scraped = {each["job_name"] for each in yaml.safe_load((INFRA / file).read_text())["scrape_configs"]}
        assert named == {"ray", "gigagan"} <= scraped, file


def readme_blocks() -> list[str]:
    """What the README has to be typed, in order; of lists, too."""
    text = (INFRA / "README.md").read_text()
    return re.findall(r"^ *```\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)


def unset_variables(commands: str) -> list[str]:
    """Variables that nothing before has given a value, and whose lack would go unnoticed: no ``${NAME:?}``."""
    given = {"PWD", "PATH"}
    found = []
    for line in commands.splitlines():
        used = re.findall(r"\$(?:\{([A-Z_]+)\}|([A-Z_]+))", line)
        found += [name for pair in used for name in pair if name and name not in given]
        given |= set(re.findall(r"(?:^|\s)([A-Z_]+)=(?=[^\s#])", line))
    return found


def test_no_secret_of_the_readme_is_made_of_a_variable_that_nobody_set() -> None:
    assert unset_variables("\n".join(readme_blocks())) == []
    assert unset_variables('KEY=\nadd "$KEY"') == ["KEY"]
    assert unset_variables('KEY=\nadd "${KEY:?}"') == []


def test_commands_of_compose_name_services_that_there_are(compose) -> None:
    pattern = r"docker compose (?:run|exec)((?: --?\S+(?: \S*/\S*)?)*) (\w[\w-]*)"
    named = [name for _, name in re.findall(pattern, (INFRA / "README.md").read_text())]
    assert {"assets", "worker", "postgres"} <= set(named)
    assert set(named) <= set(compose["services"])


def test_the_readmes_commands_are_shell_and_its_rule_is_an_object() -> None:
    blocks = readme_blocks()
    assert len(blocks) >= 6
    for block in blocks:
        done = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, (block, done.stderr)
    (rule,) = [block for block in blocks if "PrometheusRule" in block]
    printed = subprocess.run(
        ["sh"],
        input=rule.rpartition("|")[0],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        check=True,
    )
    made = yaml.safe_load(printed.stdout)
    assert made["kind"] == "PrometheusRule"
    assert made["spec"] == yaml.safe_load((INFRA / "alerts.yaml").read_text())
