"""What the manifests promise: no root, no credential where pods fetch from the web, ports for those who need them."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from gigagan_core.assets.catalogue import CATALOGUE
from tests.infra.conftest import INFRA, ROOT

TEXTS = [path for path in INFRA.rglob("*") if path.suffix in (".yaml", ".json", ".env") and path.is_file()]


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def cluster(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return of_kind(manifests, "RayCluster")["gigagan"]["spec"]


def groups(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in cluster(manifests)["workerGroupSpecs"]}


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that these files make, with Prefect's flow runs."""
    for each in manifests:
        if each["kind"] in ("Deployment", "StatefulSet"):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]
    yield "ray-head", cluster(manifests)["headGroupSpec"]["template"]["spec"]
    for name, group in groups(manifests).items():
        yield f"ray-{name}", group["template"]["spec"]
    pool = json.loads((INFRA / "kubernetes" / "work-pool.json").read_text())
    yield "flow", pool["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]


def policy(manifests: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found = [
        each for each in manifests if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == name
    ]
    return next(each["spec"] for each in found if each["metadata"]["namespace"] == "gigagan")


def test_every_pod_is_restricted(manifests) -> None:
    names = []
    for name, pod in pods(manifests):
        names.append(name)
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert set(container["resources"]) == {"requests", "limits"}, name
    assert sorted(names) == ["exporter", "flow", "ray-cpu", "ray-gpu", "ray-head", "redis"]


def test_only_who_asks_the_kubernetes_api_has_a_token_for_it(manifests) -> None:
    accounts = of_kind(manifests, "ServiceAccount")
    asking = {name for name, account in accounts.items() if account.get("automountServiceAccountToken", True)}
    assert asking == {"flow", "ray-head"}
    for name, pod in pods(manifests):
        account = pod["serviceAccountName"].replace("{{ service_account_name }}", "flow")
        assert account in accounts, name
        assert pod.get("automountServiceAccountToken", True) == (account in asking), name


def test_the_flow_may_make_and_follow_rayjobs_and_nothing_else(manifests) -> None:
    (role,) = of_kind(manifests, "Role").values()
    allowed = {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert allowed == {
        ("ray.io", "rayjobs"): {"create", "get", "list", "watch", "delete"},
        ("", "pods"): {"get", "list", "watch"},
        ("", "pods/log"): {"get"},
    }
    assert not of_kind(manifests, "ClusterRole")


def test_pods_that_fetch_from_the_web_hold_no_credential(manifests) -> None:
    worker = of_kind(manifests, "ServiceAccount")["ray-worker"]
    assert worker["automountServiceAccountToken"] is False
    assert "annotations" not in worker["metadata"]
    for name, group in groups(manifests).items():
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] == "ray-worker", name
        for container in pod["containers"]:
            assert "envFrom" not in container, name
            assert not [each for each in container.get("env", ()) if "valueFrom" in each], name
        assert not [volume for volume in pod["volumes"] if "secret" in volume or "projected" in volume], name


def test_the_gpu_group_asks_for_gpus_and_stands_on_their_nodes(manifests) -> None:
    gpu, cpu = groups(manifests)["gpu"], groups(manifests)["cpu"]
    (container,) = gpu["template"]["spec"]["containers"]
    assert (
        container["resources"]["limits"]["nvidia.com/gpu"]
        == container["resources"]["requests"]["nvidia.com/gpu"]
    )
    assert container["image"].endswith("-cuda")
    keys = {toleration["key"] for toleration in gpu["template"]["spec"]["tolerations"]}
    spot = {toleration["key"] for toleration in cpu["template"]["spec"]["tolerations"]}
    assert keys == {"nvidia.com/gpu"} | spot
    assert "spot" in spot
    assert "nvidia.com/gpu" not in cpu["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert gpu["template"]["spec"]["priorityClassName"] == "gigagan-training"
    assert cpu["template"]["spec"]["priorityClassName"] == "gigagan-data"


def test_the_cluster_grows_within_limits_and_asks_for_a_token(manifests) -> None:
    spec = cluster(manifests)
    assert spec["enableInTreeAutoscaling"] is True
    for name, group in groups(manifests).items():
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] <= 20, name
    assert spec["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    assert spec["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    # Tasks never run where the credentials are.
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"


def test_rays_objects_fit_into_the_shared_memory_of_their_pod(manifests) -> None:
    spec = cluster(manifests)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        shared = int(volumes["shared-memory"]["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
        # Half of it at most: NCCL and PyTorch's loaders use it, too.
        assert 0 < int(group["rayStartParams"]["object-store-memory"]) <= shared / 2


def test_nobody_reaches_anybody_unless_a_policy_says_so(manifests) -> None:
    denied = {
        each["metadata"]["namespace"]: each["spec"]["policyTypes"]
        for each in manifests
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "default-deny"
    }
    assert denied == {"gigagan": ["Ingress", "Egress"], "prefect": ["Ingress"], "mlflow": ["Ingress"]}
    for each in manifests:
        if each["kind"] == "NetworkPolicy":
            rules = each["spec"].get("ingress", []) + each["spec"].get("egress", [])
            assert all(rule.get("from") or rule.get("to") for rule in rules), each["metadata"]["name"]


def test_rays_ports_are_reached_by_its_own_pods_and_the_jobs_port_by_those_who_submit(manifests) -> None:
    ray = {"ray.io/is-ray-node": "yes"}
    reaching: list[tuple[Any, Any]] = []
    for each in manifests:
        if each["kind"] != "NetworkPolicy" or each["metadata"]["namespace"] != "gigagan":
            continue
        labels = each["spec"]["podSelector"].get("matchLabels", {})
        if not any(name.startswith("ray.io/") for name in labels) and labels != {}:
            continue
        for rule in each["spec"].get("ingress", ()):
            ports = sorted(port["port"] for port in rule.get("ports", ())) or "all"
            reaching += [(ports, json.dumps(peer, sort_keys=True)) for peer in rule["from"]]
    everything = [peer for ports, peer in reaching if ports == "all"]
    assert everything == [json.dumps({"podSelector": {"matchLabels": ray}})]
    jobs = [peer for ports, peer in reaching if ports == [8265]]
    assert len(jobs) == 3
    assert sum('"app.kubernetes.io/component": "flow"' in peer for peer in jobs) == 1
    assert [ports for ports, _ in reaching if ports not in ("all", [8265])] == [[8080, 9464]]


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "10.1.2.3",
        "172.20.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "fd00::1",
        "fe80::1",
        "::1",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::ffff:10.0.0.1",
    ],
)
def test_download_pods_cannot_reach_metadata_or_private_addresses(manifests, address: str) -> None:
    assert not reached(policy(manifests, "web"), address)
    assert not reached(policy(manifests, "assets"), address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "172.15.0.1", "2606:4700::1111"])
def test_download_pods_reach_the_web(manifests, address: str) -> None:
    assert reached(policy(manifests, "web"), address)
    assert reached(policy(manifests, "assets"), address)


def test_the_web_is_for_download_pods_alone(manifests) -> None:
    spec = policy(manifests, "web")
    assert spec["podSelector"]["matchLabels"] == {"gigagan/stage": "ingest", "ray.io/node-type": "worker"}
    assert groups(manifests)["cpu"]["template"]["metadata"]["labels"]["gigagan/stage"] == "ingest"
    assert "labels" not in groups(manifests)["gpu"]["template"]["metadata"]
    (rule,) = spec["egress"]
    assert [port["port"] for port in rule["ports"]] == [80, 443]


def flow_pod() -> dict[str, Any]:
    """The template of a flow run's pod, labels and spec."""
    pool = json.loads((INFRA / "kubernetes" / "work-pool.json").read_text())
    return pool["job_configuration"]["job_manifest"]["spec"]["template"]


def test_a_flow_run_reaches_the_web_where_its_deployment_says_so(manifests) -> None:
    labels = policy(manifests, "assets")["podSelector"]["matchLabels"]
    assert labels == {"app.kubernetes.io/component": "flow", "gigagan/egress": "web"}
    assert flow_pod()["metadata"]["labels"]["gigagan/egress"] == "{{ egress }}"
    pool = json.loads((INFRA / "kubernetes" / "work-pool.json").read_text())
    egress = pool["variables"]["properties"]["egress"]
    assert (egress["enum"], egress["default"]) == (["store", "web"], "store")
    (rule,) = policy(manifests, "assets")["egress"]
    assert [port["port"] for port in rule["ports"]] == [80, 443]
    addresses = {each.address for each in CATALOGUE.values()}
    assert {urlsplit(address).port or urlsplit(address).scheme for address in addresses} == {"http", "https"}


def test_a_flow_runs_pod_can_stand_on_a_gpu_node_and_keeps_away_from_it(manifests) -> None:
    pod = flow_pod()["spec"]
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert taint in pod["tolerations"]
    assert taint in groups(manifests)["gpu"]["template"]["spec"]["tolerations"]
    (preferred,) = pod["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    (expression,) = preferred["preference"]["matchExpressions"]
    assert expression == {"key": "nvidia.com/gpu.present", "operator": "DoesNotExist"}
    volumes = {each["name"]: each for each in pod["volumes"]}
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == "/dev/shm"]
    assert volumes[mount["name"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "{{ shared_memory }}"}


@pytest.mark.parametrize("name", ["ray-head", "flow", "exporter"])
def test_who_holds_credentials_never_reaches_the_nodes_metadata(manifests, name: str) -> None:
    assert not reached(policy(manifests, name), "169.254.169.254")
    ports = {
        port["port"]
        for rule in policy(manifests, name)["egress"]
        for port in rule["ports"]
        if any("ipBlock" in peer for peer in rule["to"])
    }
    assert ports <= {443, 6443}


def reached(spec: dict[str, Any], address: str) -> bool:
    ip = ipaddress.ip_address(address)
    for rule in spec["egress"]:
        for peer in rule["to"]:
            block = peer.get("ipBlock")
            if block and ip in ipaddress.ip_network(block["cidr"]):
                return not any(ip in ipaddress.ip_network(each) for each in block.get("except", ()))
    return False


def test_disruption_budgets_select_pods_that_there_are(manifests) -> None:
    selected = {
        name: budget["spec"]["selector"]["matchLabels"]
        for name, budget in of_kind(manifests, "PodDisruptionBudget").items()
    }
    assert selected["ray-head"] == {"ray.io/cluster": "gigagan", "ray.io/node-type": "head"}
    assert selected["ray-gpu"]["ray.io/group"] in groups(manifests)


def test_everything_that_a_pod_names_is_there_or_in_the_readme(manifests) -> None:
    text = "\n".join(json.dumps(pod) for _, pod in pods(manifests)) + json.dumps(cluster(manifests))
    readme = (INFRA / "README.md").read_text()
    secrets = set(re.findall(r'"secretKeyRef": \{[^}]*"name": "([\w-]+)"', text))
    secrets |= set(re.findall(r'"secretRef": \{"name": "([\w-]+)"', text)) | {"ray-token"}
    assert secrets == {"store", "records", "redis", "prefect-auth", "ray-client", "ray-token"}
    assert [name for name in secrets if f"secret generic {name}" not in readme] == []
    made = yaml.safe_load((INFRA / "kubernetes" / "kustomization.yaml").read_text())["configMapGenerator"]
    assert set(re.findall(r'"configMap(?:Ref)?": \{"name": "([\w-]+)"', text)) == {
        each["name"] for each in made
    }
    assert set(re.findall(r'"claimName": "([\w-]+)"', text)) == set(
        of_kind(manifests, "PersistentVolumeClaim")
    )
    assert set(re.findall(r'"priorityClassName": "([\w-]+)"', text)) == set(
        of_kind(manifests, "PriorityClass")
    )


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_moving_tag_and_no_secret_is_in_any_file(path) -> None:
    assert moving_tags_and_secrets(path.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "image: postgres:latest",
        "tag: latest",
        "kind: Secret",
        "password: hunter2hunter2",
        'RAY_AUTH_TOKEN="0123456789abcdef"',
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG",
        "url: postgresql://mlflow:s3cr3t@db/mlflow",
    ],
)
def test_a_planted_secret_would_be_seen(planted: str) -> None:
    assert len(moving_tags_and_secrets(f"a: b\n{planted}\nc: d\n")) == 1


def moving_tags_and_secrets(text: str) -> list[str]:
    """Lines with a tag that moves, an object that holds a secret, or a value where a secret would stand."""
    # `$` begins what compose or a shell fills in; a bare word of a schema or the name of a Secret is no value.
    value = r"(?i)(password|secret_access_key|secret_key|_token|auth[-_]string)\"?[=:]\s*[\"']?(?=[^\s]*\d)[\w/+.-]{8,}"
    patterns = (
        r"(?i)(image|tag):\s*(\S*:)?latest\b",
        r"^kind: Secret$",
        value,
        r"\w+://\w+:[^$@/\s]+@",
    )
    return [line for line in text.splitlines() if any(re.search(pattern, line) for pattern in patterns)]


def test_servers_of_the_charts_ask_who_is_there() -> None:
    values = {path.stem: yaml.safe_load(path.read_text()) for path in (INFRA / "helm").glob("*.yaml")}
    assert values["prefect-server"]["server"]["basicAuth"] == {
        "enabled": True,
        "existingSecret": "prefect-auth",
    }
    assert values["prefect-worker"]["worker"]["selfHostedServerApiConfig"]["basicAuth"]["enabled"] is True
    assert values["mlflow"]["server"]["value_options"]["app_name"] == "basic-auth"
    assert values["mlflow"]["networkPolicy"]["enabled"] is False
