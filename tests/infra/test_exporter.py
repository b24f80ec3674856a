"""`infra/exporter.py`: figures of Prefect, MLflow and the store, and what is served when one of them is away."""

from __future__ import annotations

import base64
import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gigagan_core.config.base import flat
from gigagan_core.config.ingest import IngestSettings


class Prefect(BaseHTTPRequestHandler):
    """Answers as Prefect 3.8's API does. asked: path, header and body of each request."""

    asked: list[tuple[str, str | None, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers["Authorization"], body))
        pools = [
            {"name": "local", "status": "READY", "is_paused": False},
            {"name": "kubernetes", "status": "NOT_READY", "is_paused": False},
            {"name": "old", "status": "PAUSED", "is_paused": True},
        ]
        answer = json.dumps({"/api/flow_runs/count": 3, "/api/work_pools/filter": pools}[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing: a test's output is its failures."""


@pytest.fixture
def prefect() -> Iterator[tuple[str, type[Prefect]]]:
    handler = type("Handler", (Prefect,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api", handler
    server.shutdown()
    server.server_close()


class Mlflow:
    """The three questions of `mlflow.MlflowClient`."""

    def __init__(self, runs: list[Any], files: int = 0):
        self._runs, self._files = runs, files

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="7") if name == "gigagan" else None

    def search_runs(self, experiments: list[str], wanted: str, max_results: int) -> list[Any]:
        assert (experiments, wanted) == (["7"], "attributes.status = 'RUNNING'")
        return self._runs

    def list_artifacts(self, run_id: str, folder: str) -> list[str]:
        assert folder == "non-finite"
        return ["file"] * self._files


def run(name: str, metrics: dict[str, float], params: dict[str, str] | None = None) -> Any:
    data = SimpleNamespace(metrics=metrics, params=params or {})
    return SimpleNamespace(info=SimpleNamespace(run_name=name, run_id=f"id-{name}"), data=data)


def test_late_runs_and_pools_without_a_worker(exporter, prefect) -> None:
    url, handler = prefect
    assert list(exporter.prefect_samples(url, "admin:word")) == [
        ("gigagan_flow_runs_late", (), 3.0),
        ("gigagan_work_pool_ready", ("local",), 1.0),
        ("gigagan_work_pool_ready", ("kubernetes",), 0.0),
    ]
    paths, headers, bodies = zip(*handler.asked, strict=True)
    assert paths == ("/api/flow_runs/count", "/api/work_pools/filter")
    assert set(headers) == {f"Basic {base64.b64encode(b'admin:word').decode()}"}
    assert bodies[0] == {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}}


def test_what_is_asked_is_what_prefects_server_takes() -> None:
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import WorkPool

    assert FlowRunFilter.model_validate({"state": {"name": {"any_": ["Late"]}}}).state.name.any_ == ["Late"]
    assert {"name", "status", "is_paused"} <= set(WorkPool.model_fields)


def test_figures_of_a_training_and_of_an_ingest(exporter) -> None:
    limit = str(flat(IngestSettings())["fetch.max_failed_share"])
    client = Mlflow(
        [
            run("train-base", {"images_per_second": 41.5, "loss/g": 1.0}),
            run(
                "ingest",
                {"fetch/success": 60.0, "fetch/failed/timeout": 30.0, "fetch/failed/http_404": 10.0},
                {"fetch.max_failed_share": limit},
            ),
            run("curate", {}),
        ],
        files=2,
    )
    training, ingest = ("train-base", "id-train-base"), ("ingest", "id-ingest")
    assert list(exporter.mlflow_samples(client)) == [
        ("gigagan_training_images_per_second", training, 41.5),
        ("gigagan_training_rollbacks", training, 2.0),
        ("gigagan_fetch_failed_share", ingest, 0.4),
        ("gigagan_fetch_failed_share_limit", ingest, 0.5),
    ]


def test_the_names_are_those_that_the_code_logs() -> None:
    from gigagan_core.stages.partitions import _Board
    from tests.infra.conftest import ROOT

    assert "fetch/success" in _Board(1).metrics(1.0)
    assert '"images_per_second"' in (ROOT / "gigagan_core" / "training" / "loop.py").read_text()


def test_the_store_is_listed(exporter, tmp_path) -> None:
    ((name, labels, seconds),) = exporter.store_samples(str(tmp_path))
    assert (name, labels) == ("gigagan_store_listing_seconds", ())
    assert 0 <= seconds < 5


def test_a_server_that_is_away_is_a_figure_and_the_others_stay(exporter, capsys) -> None:
    def away() -> Iterator[Any]:
        raise ConnectionError("with a password in it")

    sources = {"mlflow": lambda: iter([("gigagan_training_rollbacks", ("a", "b"), 1.0)]), "prefect": away}
    text = served(exporter.Collector(sources))
    assert "gigagan_mlflow_up 1.0" in text
    assert "gigagan_prefect_up 0.0" in text
    assert "gigagan_flow_runs_late 0" not in text
    assert 'gigagan_training_rollbacks{run="a",run_id="b"} 1.0' in text
    assert capsys.readouterr().out == "exporter: prefect does not answer: ConnectionError\n"


def test_servers_are_asked_once_however_often_it_is_scraped(exporter) -> None:
    asked = []

    def source() -> Iterator[Any]:
        asked.append(1)
        yield from ()

    collector = exporter.Collector({"store": source}, every=3600.0)
    served(collector)
    served(collector)
    assert len(asked) == 1


def test_it_is_served_over_http(exporter) -> None:
    registry = CollectorRegistry()
    registry.register(exporter.Collector({"store": lambda: iter(())}))
    server, thread = exporter.start_http_server(0, "127.0.0.1", registry)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=10) as answer:
            assert b"gigagan_store_up 1.0" in answer.read()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def served(collector: Any) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()
