"""Prefect, MLflow, Ray and Kubernetes, each away, refusing, or of another version."""

from __future__ import annotations

import base64
import importlib.metadata
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from gigagan_core import environment
from gigagan_core.doctor import kubernetes_api, services
from gigagan_core.doctor.request import Request

from .conftest import one, statuses


def test_prefect_away_refusing_and_of_another_version(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str], closed_port: int
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert one(services.prefect()).status == "ok"
    ours = importlib.metadata.version("prefect")
    for version, status in ((ours, "ok"), ("2.14.0", "fail"), (ours.rpartition(".")[0] + ".999", "warn")):
        url = serve(lambda method, path, headers, body, version=version: (200, json.dumps(version)))
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        assert one(services.prefect()).status == status, version
    monkeypatch.setenv("PREFECT_API_URL", serve(lambda *asked: (401, "{}")))
    assert "refuses us (401)" in one(services.prefect()).what
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{closed_port}/api")
    away = one(services.prefect())
    assert away.status == "fail"
    assert "Connection refused" in away.what


def test_mlflow_away_and_of_another_version(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str], closed_port: int
) -> None:
    ours = importlib.metadata.version("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serve(lambda *asked: (200, ours)))
    assert one(services.mlflow()).status == "ok"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serve(lambda *asked: (200, "2.0.0")))
    assert f"serves version 2.0.0, and {ours} is installed here" in one(services.mlflow()).what
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serve(lambda *asked: (403, "Invalid Host header")))
    assert "--allowed-hosts" in one(services.mlflow()).mend
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port}")
    assert one(services.mlflow()).status == "fail"


def test_mlflow_is_asked_as_its_own_client_would_ask(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str]
) -> None:
    ours = importlib.metadata.version("mlflow")
    allowed = ""

    def guarded(method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        return (200, ours) if headers.get("authorization") == allowed else (401, "who is there?")

    url = serve(guarded)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    assert one(services.mlflow()).status == "fail"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
    allowed = "Bearer a-token"
    assert one(services.mlflow()).status == "ok"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pw")
    allowed = f"Basic {base64.b64encode(b'ann:pw').decode()}"
    assert one(services.mlflow()).status == "ok"
    # The address goes before both, and its password is shown to nobody.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url.replace("//", "//bob:s%40cret@"))
    refused = one(services.mlflow())
    assert refused.status == "fail"
    assert "cret" not in str(refused)
    allowed = f"Basic {base64.b64encode(b'bob:s@cret').decode()}"
    found = one(services.mlflow())
    assert (found.status, found.what) == ("ok", f"{url} serves version {ours}")


def test_mlflows_database_is_read_and_its_password_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, closed_port: int
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "will be made by the first run" in one(services.mlflow()).what
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mlflow.db").write_text("this is no database, however long it may be " * 50)
    found = one(services.mlflow())
    assert found.status == "fail"
    assert "is not a database" in found.what
    place = f"mlflow:secret@127.0.0.1:{closed_port}/mlflow"
    for driver, said in (("postgresql+psycopg2", "Connection refused"), ("postgresql+pg8000", "driver")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{driver}://{place}")
        found = one(services.mlflow())
        assert found.status == "fail"
        assert said in found.what
        assert "secret" not in str(found)


def test_a_ray_dashboard_and_its_token(monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str]) -> None:
    ours = importlib.metadata.version("ray")

    def guarded(method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        known = headers.get("authorization") == "Bearer right"
        return (200, {"ray_version": ours}) if known else (401, {"error": "no"})

    request = Request(backend="ray-job", ray_address=serve(guarded))
    assert "wants a token" in one(services.ray(request)).what
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    refused = one(services.ray(request))
    assert "does not take our token" in refused.what
    assert "wrong" not in str(refused)
    token = environment.home().parent / "token"
    token.write_text("right\n")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert statuses(services.ray(request)) == ["ok"]


def test_a_ray_cluster_that_is_away_open_or_of_another_version(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str], closed_port: int
) -> None:
    assert one(services.ray(Request())).status == "ok"
    assert "has no address" in one(services.ray(Request(backend="ray-job"))).what
    ours = importlib.metadata.version("ray")
    open_to_all = serve(lambda *asked: (200, {"ray_version": ours}))
    assert statuses(services.ray(Request(backend="ray-job", ray_address=open_to_all))) == ["ok", "warn"]
    other = serve(lambda *asked: (200, {"ray_version": "2.59.0"}))
    assert "fail" in statuses(services.ray(Request(backend="ray-job", ray_address=other)))
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    assert "cannot be reached" in one(services.ray(Request())).what
    address = serve(lambda *asked: (200, "")).removeprefix("http://")
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert one(services.ray(Request())).status == "ok"


def kube(
    allowed: Callable[[str], bool], groups: Iterable[str] = ("ray.io",)
) -> Callable[..., tuple[int, Any]]:
    """A Kubernetes API that knows its version, its groups, and who may do what."""

    def answer(method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        if path == "/version/":
            fields = (
                "major",
                "minor",
                "gitCommit",
                "gitTreeState",
                "buildDate",
                "goVersion",
                "compiler",
                "platform",
            )
            return 200, {**dict.fromkeys(fields, "1"), "gitVersion": "v1.31.0"}
        if path == "/apis/":
            version = {"groupVersion": "ray.io/v1", "version": "v1"}
            listed = [{"name": name, "versions": [version], "preferredVersion": version} for name in groups]
            return 200, {"kind": "APIGroupList", "groups": listed}
        assert path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        attributes = body["spec"]["resourceAttributes"]
        assert attributes["namespace"] == "training"
        wanted = attributes["resource"] + (
            f"/{attributes['subresource']}" if "subresource" in attributes else ""
        )
        status = {"allowed": allowed(f"{attributes['verb']} {wanted}")}
        return 201, {"kind": "SelfSubjectAccessReview", "spec": body["spec"], "status": status}

    return answer


def test_kubernetes_rights_are_asked_for_one_by_one(serve: Callable[..., str], closed_port: int) -> None:
    def request(url: str) -> Request:
        return Request(backend="kuberay", namespace="training", kube_api=url)

    assert list(kubernetes_api.kubernetes(Request())) == []
    found = list(kubernetes_api.kubernetes(request(serve(kube(lambda right: True)))))
    assert statuses(found) == ["ok", "ok", "ok"], found
    forbidden = {"delete rayjobs", "get pods/log"}
    found = list(kubernetes_api.kubernetes(request(serve(kube(lambda right: right not in forbidden)))))
    assert statuses(found) == ["ok", "ok", "fail"]
    assert found[-1].what == "in namespace training we may not delete rayjobs, get pods/log"
    found = list(kubernetes_api.kubernetes(request(serve(kube(lambda right: True, groups=["apps"])))))
    assert statuses(found) == ["ok", "fail", "ok"]
    away = one(kubernetes_api.kubernetes(request(f"http://127.0.0.1:{closed_port}")))
    assert away.status == "fail"
    nowhere = one(kubernetes_api.kubernetes(Request(backend="kuberay")))
    assert (nowhere.status, nowhere.name) == ("fail", "kubernetes")
