"""What compose.yaml and the Dockerfiles promise: loopback, no secret, no root, no moving tag."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import re
import tomllib
from typing import Any

import pytest

from tests.infra.conftest import INFRA, ROOT

DOCKERFILES = sorted((INFRA / "docker").glob("*Dockerfile"))
# One-shot services end; the others are asked whether they are well.
ONCE = {"buckets", "deployments", "assets"}
SECRETS = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|AUTH_STRING|CONNECTION_URL|STORE_URI|AUTH_DATABASE")


def services(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]


def test_every_service_of_the_stack_is_there(compose) -> None:
    wanted = {
        "postgres",
        "s3",
        "mlflow",
        "prefect",
        "worker",
        "ray-head",
        "ray-worker",
        "exporter",
        "prometheus",
    }
    assert wanted <= set(services(compose))
    assert services(compose)["ray-worker"]["deploy"]["replicas"] == 2


def test_every_published_port_is_on_loopback(compose) -> None:
    ports = [port for service in services(compose).values() for port in service.get("ports", ())]
    assert len(ports) == 4
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_no_service_is_root_or_may_become_it(compose) -> None:
    for name, service in services(compose).items():
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert not service.get("privileged", False), name


def test_every_service_has_limits_a_restart_policy_and_a_health_check(compose) -> None:
    for name, service in services(compose).items():
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        assert service["restart"] == ("no" if name in ONCE else "unless-stopped"), name
        assert ("healthcheck" in service) == (name not in ONCE), name


def test_a_service_starts_when_what_it_needs_is_well(compose) -> None:
    for name, service in services(compose).items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in ONCE else "service_healthy"
            assert how == {"condition": wanted}, (name, needed)
    assert set(services(compose)["worker"]["depends_on"]) == {"deployments", "mlflow", "ray-head"}


def test_volumes_are_named_and_every_bind_is_read_only(compose) -> None:
    for name, service in services(compose).items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert volume.endswith(":ro"), (name, volume)
                assert (INFRA / source).is_file(), (name, volume)
            elif volume != "/tmp/ray":
                assert source in compose["volumes"], (name, volume)


def test_no_secret_is_in_the_file_and_a_missing_one_is_a_sentence(compose) -> None:
    found = 0
    for name, service in services(compose).items():
        for variable, value in service.get("environment", {}).items():
            if not SECRETS.search(variable) or variable in ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION",):
                continue
            found += 1
            assert re.search(r"\$\{\w+:\?[^}]*\.env\.example[^}]*\}", value), (name, variable)
    assert found > 15
    example = (INFRA / ".env.example").read_text()
    assert re.findall(r"^\w+=(?!\s*$|dev$).+", example, flags=re.MULTILINE) == []


def test_workers_that_fetch_from_the_web_hold_no_credential_but_rays(compose) -> None:
    for name in ("ray-worker", "ray-gpu-worker"):
        service = services(compose)[name]
        assert service["networks"] == ["ray"], name
        secret = {variable for variable in service["environment"] if SECRETS.search(variable)}
        assert secret == {"RAY_AUTH_TOKEN"}, name
    on_the_way_out = {name for name, each in services(compose).items() if "ray" in each["networks"]}
    assert on_the_way_out == {"ray-head", "ray-worker", "ray-gpu-worker", "prometheus"}
    assert compose["networks"]["services"] == {"internal": True}


def test_what_brings_assets_in_reaches_the_web_and_holds_nothing(compose) -> None:
    assets = services(compose)["assets"]
    assert assets["networks"] == ["web"]
    assert [name for name, each in services(compose).items() if "web" in each["networks"]] == ["assets"]
    assert not compose["networks"]["web"]
    assert [name for name in assets["environment"] if SECRETS.search(name)] == []
    # Started by hand, into the folder where flow runs and Ray's workers look.
    assert assets["profiles"] == ["assets"]
    assert "home:/var/lib/gigagan" in assets["volumes"]
    for name in ("worker", "ray-head", "ray-worker"):
        assert "home:/var/lib/gigagan" in services(compose)[name]["volumes"], name


def test_every_ray_process_asks_for_a_token(compose) -> None:
    for name in ("ray-head", "ray-worker", "ray-gpu-worker", "worker"):
        assert services(compose)[name]["environment"]["RAY_AUTH_MODE"] == "token", name


def test_rays_objects_fit_into_the_shared_memory_of_their_container(compose) -> None:
    for name in ("ray-head", "ray-worker", "ray-gpu-worker"):
        service = services(compose)[name]
        (objects,) = [each for each in service["command"] if each.startswith("--object-store-memory=")]
        assert int(objects.partition("=")[2]) <= int(service["shm_size"].removesuffix("gb")) * 2**30 / 2, name


def test_servers_ask_who_is_there(compose) -> None:
    assert "PREFECT_SERVER_API_AUTH_STRING" in services(compose)["prefect"]["environment"]
    assert "--app-name basic-auth" in services(compose)["mlflow"]["command"][-1]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_start_from_exact_versions_and_end_as_a_numbered_user(path) -> None:
    text = path.read_text()
    bases = re.findall(r"^FROM (\S+)(?: AS (\w+))?", text, flags=re.MULTILINE)
    stages = {stage for _, stage in bases}
    assert bases
    for base, _ in bases:
        assert base in stages or re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*", base), base
    for part in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        users = re.findall(r"^USER (\S+)", part, flags=re.MULTILINE)
        assert part.split()[-1] == "builder" or "AS builder" in part or users[-1] == "1000:1000"
    assert not re.search(r"[a-z]+://|--index-url|--extra-index", text)


def test_the_image_has_a_python_that_the_project_and_its_lock_are_for() -> None:
    versions = set(
        re.findall(r"^FROM python:(\S+?)-", (INFRA / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    )
    assert len(versions) == 1
    minor = versions.pop().rpartition(".")[0]
    with open(ROOT / "pyproject.toml", "rb") as file:
        classifiers = tomllib.load(file)["project"]["classifiers"]
    assert f"Programming Language :: Python :: {minor}" in classifiers
    assert f"--python-version {minor}" in (ROOT / "Makefile").read_text()


def test_packages_come_from_the_lock_with_their_hashes() -> None:
    text = (INFRA / "docker" / "Dockerfile").read_text()
    assert text.count("--require-hashes") == 2
    installs = [line for line in text.splitlines() if "pip install" in line or "pip sync" in line]
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)


def test_what_an_image_copies_is_let_in_and_nothing_else_is() -> None:
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied: set[str] = set()
    for line in re.findall(
        r"^COPY (?!--from)(.+)$", (INFRA / "docker" / "Dockerfile").read_text(), re.MULTILINE
    ):
        copied |= set(line.split()[:-1])
    assert copied == let_in
    assert [name for name in copied if not (ROOT / name).exists()] == []
    secret = (".env", "infra/.env", ".gigagan/mlflow.db", ".git/config")
    assert [path for path in secret if any(fnmatch.fnmatch(path, f"{entry}*") for entry in let_in)] == []


def test_both_kinds_of_image_are_built_by_compose(compose) -> None:
    targets = {each["build"].get("target") for each in services(compose).values() if "build" in each}
    assert targets == {"cpu", "cuda", None}
    stages = re.findall(r"AS (\w+)", (INFRA / "docker" / "Dockerfile").read_text())
    assert stages == ["builder", "cpu", "cuda"]


def test_images_of_servers_are_the_locks_versions(compose) -> None:
    image = services(compose)["mlflow"]["image"]
    assert image == f"ghcr.io/mlflow/mlflow:v{importlib.metadata.version('mlflow')}-full"
    for name, service in services(compose).items():
        ours = {f"gigagan:${{GIGAGAN_TAG:-dev}}-{target}" for target in ("cpu", "cuda")}
        assert service["image"] in ours or re.search(r":v?\d+\.\d+", service["image"]), name
