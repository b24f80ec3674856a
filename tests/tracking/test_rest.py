"""MLflow's REST API without its library: the same runs as through the library, and what the library is asked for."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.servers import answers
from gigagan_core.tracking import rest
from gigagan_core.tracking.connection import Connection
from gigagan_core.tracking.entries import MetricEntry
from gigagan_core.tracking.mlflow_run import MlflowTracker
from gigagan_core.tracking.rest import NotDone, RestClient, Unsure

SERVER = """
    import sys
    from mlflow.server import app
    from mlflow.server.handlers import initialize_backend_stores
    from werkzeug.serving import make_server
    initialize_backend_stores(sys.argv[1], sys.argv[1], sys.argv[2])
    make_server("127.0.0.1", int(sys.argv[3]), app, threaded=True).serve_forever()
"""


@pytest.fixture(scope="module")
def served(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and tracking URI of the records that it serves."""
    folder = tmp_path_factory.mktemp("served")
    database = folder / "mlflow.db"
    database.write_bytes(empty_database.read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"sqlite:///{database}"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVER), uri, folder.as_uri(), str(port)],
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        stderr=subprocess.DEVNULL,
    )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 100
    while not answers(f"{address}/health"):
        assert process.poll() is None, "the server has ended"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.2)
    yield address, uri
    process.kill()
    process.wait()


@pytest.fixture
def light(served: tuple[str, str]) -> RestClient:
    return RestClient(served[0], ours=True)


@pytest.fixture
def library(served: tuple[str, str]) -> Any:
    """The library's client, on the database itself."""
    return Connection(served[1]).client


@pytest.fixture
def experiment(library: Any, request: pytest.FixtureRequest) -> str:
    return library.create_experiment(request.node.name)


def facts(run: Any) -> dict[str, Any]:
    """All of a run but its own id and its times."""
    info = {
        key: value
        for key, value in dict(run.info).items()
        if key not in ("run_id", "run_uuid", "start_time", "end_time", "artifact_uri")
    }
    return {"info": info, "metrics": run.data.metrics, "params": run.data.params, "tags": run.data.tags}


def write(client: Any, experiment: str, log_batch: Any) -> str:
    """The calls of a stage, by either client."""
    tags = {"mlflow.runName": "ingest", "mlflow.user": "ana", "odd": "ä\n`'\""}
    run_id = client.create_run(experiment, tags=tags).info.run_id
    metrics = [MetricEntry("loss/G", value, 1000 + step, step) for step, value in enumerate((0.5, 1e-9, 3.0))]
    log_batch(run_id, metrics=metrics, params={"a.b": "3"}, tags={"more": "x"})
    client.set_tag(run_id, "one", "1")
    client.update_run(run_id, status="RUNNING")
    client.set_terminated(run_id, "FAILED")
    return run_id


def test_a_run_written_over_rest_is_the_one_that_the_library_writes(
    light: RestClient, library: Any, served: tuple[str, str], experiment: str
) -> None:
    direct = Connection(served[1])
    by_library = write(library, experiment, lambda run_id, **batch: direct.ask("log_batch", run_id, **batch))
    before = int(time.time() * 1000)
    by_rest = write(light, experiment, light.log_batch)
    one, other = library.get_run(by_library), library.get_run(by_rest)
    assert facts(one) == facts(other)
    assert before <= other.info.start_time <= other.info.end_time <= time.time() * 1000
    histories = [library.get_metric_history(run, "loss/G") for run in (by_library, by_rest)]
    assert [(m.value, m.timestamp, m.step) for m in histories[0]] == [
        (m.value, m.timestamp, m.step) for m in histories[1]
    ]


def test_figures_that_are_not_finite_arrive(light: RestClient, library: Any, experiment: str) -> None:
    run_id = light.create_run(experiment, {}).info.run_id
    values = {"nan": math.nan, "up": math.inf, "down": -math.inf}
    light.log_batch(run_id, metrics=[MetricEntry(name, value, 1, 0) for name, value in values.items()])
    found = library.get_run(run_id).data.metrics
    # MLflow's database keeps the infinite ones as the largest number that it has.
    assert math.isnan(found["nan"])
    assert found["up"] > 1e300
    assert found["down"] < -1e300


def test_what_is_searched_is_what_the_library_finds(light: RestClient, library: Any, experiment: str) -> None:
    for number in range(3):
        run_id = light.create_run(experiment, {"number": str(number % 2)}).info.run_id
        light.set_terminated(run_id, "FINISHED")
    light.create_run(experiment, {"number": "0"})
    for query in ("tags.`number` = '0'", "attributes.status = 'RUNNING'", "tags.`number` = '7'"):
        found, expected = (client.search_runs([experiment], query) for client in (light, library))
        assert [(run.info.run_id, run.info.status, run.info.experiment_id) for run in found] == [
            (run.info.run_id, run.info.status, run.info.experiment_id) for run in expected
        ]
        assert [dict(run.data.tags) for run in found] == [dict(run.data.tags) for run in expected]
    assert len(light.search_runs([experiment], "", max_results=2)) == 2
    assert len(light.search_experiments(max_results=1)) == 1


def test_an_experiment_is_found_by_name_or_is_none(light: RestClient, library: Any, experiment: str) -> None:
    name = library.get_experiment(experiment).name
    assert light.get_experiment_by_name(name).experiment_id == experiment
    assert light.get_experiment_by_name(name).lifecycle_stage == "active"
    library.delete_experiment(experiment)
    assert light.get_experiment_by_name(name).lifecycle_stage == "deleted"
    assert light.get_experiment_by_name("no such") is None


def test_versions_of_a_model_are_found_by_their_tags(light: RestClient, library: Any) -> None:
    library.create_registered_model("a-model")
    library.create_model_version("a-model", "/nowhere", tags={"digest": "d"})
    assert [dict(each.tags) for each in light.search_model_versions("name = 'a-model'")] == [{"digest": "d"}]
    assert light.search_model_versions("name = 'another'") == []


def test_a_refusal_changes_nothing_and_is_the_librarys_to_explain(
    served: tuple[str, str], light: RestClient
) -> None:
    with pytest.raises(NotDone, match="404"):
        light.set_terminated("0" * 32, "FINISHED")
    connection = Connection(served[1], server=served[0])
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="not found"):
        connection.ask("set_terminated", "0" * 32, "FINISHED")


def test_a_server_that_is_gone_is_replaced_by_the_database(
    served: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    tracker = MlflowTracker(served[1], experiment="gone", server=gone)
    with tracker.stage_run("ingest", params={"a": 1}) as run:
        run.log_metrics({"x": 1.0})
    found = Connection(served[1]).client.get_run(run.run_id)
    assert (found.info.status, found.data.metrics, found.data.params) == ("FINISHED", {"x": 1.0}, {"a": "1"})
    assert "did not take" not in capsys.readouterr().err


ARTIFACT = SimpleNamespace(
    stage="train-base",
    kind="base-model",
    fingerprint="f" * 64,
    short="f" * 12,
    attempt=1,
    output_digest="d" * 64,
    uri="/store/train-base/fff",
    manifest={
        "created": "2025-01-02T03:04:05",
        "mlflow": {"run_id": "made-by"},
        "counts": {"in": 3, "out": 3},
    },
    summary={"loss": 0.5},
)
CACHED = """
    import json, sys, tests.tracking.test_rest as rest
    from gigagan_core.tracking.mlflow_run import MlflowTracker
    tracker = MlflowTracker(sys.argv[1], tags={"asker": "1"}, continue_by="asker", server=sys.argv[2])
    with tracker.pipeline_run("pipeline", params={f"p{i}": i for i in range(130)}):
        first = tracker.record_cached("train-base", rest.ARTIFACT)
        again = tracker.record_cached("train-base", rest.ARTIFACT)
    print(json.dumps({"heavy": "mlflow" in sys.modules, "runs": [first.run_id, again.run_id]}))
"""


def test_a_pipeline_of_cached_stages_does_not_import_mlflow(served: tuple[str, str], library: Any) -> None:
    register_once(served[1])
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(CACHED).replace("tests.tracking.test_rest", "test_rest"),
            served[1],
            served[0],
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert not said["heavy"]
    first, again = said["runs"]
    assert first == again
    run = library.get_run(first)
    assert run.info.status == "FINISHED"
    assert run.data.tags["gigagan.cached"] == "true"
    assert run.data.metrics == {"count/in": 3, "count/out": 3, "loss": 0.5}
    parent = library.get_run(run.data.tags["mlflow.parentRunId"])
    assert len(parent.data.params) == 130
    assert len(library.search_model_versions("name = 'gigagan-base'")) == 1


def register_once(tracking_uri: str) -> None:
    """What the stage did when it made the model."""
    with MlflowTracker(tracking_uri).stage_run("train-base") as run:
        run.finish(SimpleNamespace(**{**vars(ARTIFACT), "reference": lambda: {"fingerprint": "f" * 64}}))


def test_a_name_and_a_password_or_a_token_go_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[httpx.Request] = []

    def transport(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={})

    made = httpx.Client
    monkeypatch.setattr(
        rest.httpx, "Client", lambda **given: made(transport=httpx.MockTransport(transport), **given)
    )
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    RestClient("https://mlflow.example").set_tag("run", "key", "value")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ana")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    RestClient("https://mlflow.example/base/").set_tag("run", "key", "value")
    RestClient("https://mlflow.example", ours=True).set_tag("run", "key", "value")
    assert str(seen[1].url) == "https://mlflow.example/base/api/2.0/mlflow/runs/set-tag"
    sent = [request.headers.get("authorization") for request in seen]
    assert sent == ["Bearer t0ken", "Basic YW5hOnNlY3JldA==", None]


def test_servers_that_need_more_are_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, "")
    assert rest.is_understood("https://mlflow.example")
    assert not rest.is_understood("databricks")
    assert not rest.is_understood("sqlite:////tmp/mlflow.db")
    for name in ("MLFLOW_TRACKING_CLIENT_CERT_PATH", "MLFLOW_WORKSPACE", "https_proxy", "REQUESTS_CA_BUNDLE"):
        with monkeypatch.context() as patched:
            patched.setenv(name, "x")
            assert not rest.is_understood("https://mlflow.example"), name
            patched.setenv(name, "")
            assert rest.is_understood("https://mlflow.example"), name


@pytest.mark.parametrize("uri", ["http://host:abc", "http://[::1", "https://"])
def test_an_address_that_is_none_is_the_librarys_to_refuse(uri: str) -> None:
    with pytest.raises(GigaganError, match=r"MLflow at .* cannot be used"), MlflowTracker(uri).stage_run("x"):
        pass


def test_a_time_out_that_is_none_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "soon")
    assert Connection("http://mlflow.example")._light is None


class Losing(httpx.HTTPTransport):
    """A way to a server on which requests arrive and answers do not."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        super().handle_request(request).read()
        raise httpx.ReadError("lost")


def test_a_run_whose_answer_was_lost_is_not_made_twice(
    served: tuple[str, str], library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = httpx.Client
    monkeypatch.setattr(rest.httpx, "Client", lambda **given: made(transport=Losing(), **given))
    connection = Connection(served[1], server=served[0])
    experiment = library.create_experiment("lost answers")
    created = connection.ask("create_run", experiment, tags={"a": "b"})
    assert [run.info.run_id for run in library.search_runs([experiment])] == [created.info.run_id]
    assert connection.ask("create_run", experiment, tags={}).info.run_id != created.info.run_id


def test_a_request_that_was_lost_on_its_way_is_made_by_the_library(
    served: tuple[str, str], library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(request: httpx.Request) -> httpx.Response:
        raise httpx.WriteError("lost")

    made = httpx.Client
    monkeypatch.setattr(
        rest.httpx, "Client", lambda **given: made(transport=httpx.MockTransport(lost), **given)
    )
    experiment = library.create_experiment("lost requests")
    created = Connection(served[1], server=served[0]).ask("create_run", experiment, tags={"a": "b"})
    assert library.get_run(created.info.run_id).data.tags["a"] == "b"


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (httpx.Response(200, text="<html>a proxy's page</html>"), NotDone),
        (httpx.Response(200, json=["no", "object"]), NotDone),
        (httpx.Response(302, headers={"location": "https://login.example"}), NotDone),
        (httpx.Response(400, json={"error_code": "INVALID"}), NotDone),
        (httpx.ConnectError("refused"), NotDone),
        (httpx.ConnectTimeout("slow"), NotDone),
        (httpx.Response(503, text="away"), Unsure),
        (httpx.RemoteProtocolError("closed"), Unsure),
        (httpx.ReadError("reset"), Unsure),
        (httpx.ReadTimeout("slow"), Unsure),
    ],
)
def test_answers_that_are_none(answer: Any, raised: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def transport(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    made = httpx.Client
    monkeypatch.setattr(
        rest.httpx, "Client", lambda **given: made(transport=httpx.MockTransport(transport), **given)
    )
    with pytest.raises(NotDone) as caught:
        RestClient("https://mlflow.example").create_run("1", {})
    assert type(caught.value) is raised
