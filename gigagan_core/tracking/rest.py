"""The calls that most records need, over MLflow's REST API 2.0, without MLflow's library.

Importing the library takes 2 to 3 s and opening its database another one: more than all else that a pipeline run of
cached stages does (docs/decisions/0011). What is not done here at once is the library's to do, see `Connection.ask`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from gigagan_core.tracking.entries import MetricEntry

SECONDS = 20.0
"""How long one call may take, unless ``MLFLOW_HTTP_REQUEST_TIMEOUT`` says otherwise."""
_API = "/api/2.0/mlflow/"
_PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
_CERTIFICATES = {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
_UNDERSTOOD = {
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
}


class NotDone(Exception):
    """The server was not reached or refused: nothing has happened, and the library may ask it again."""


class Unsure(NotDone):
    """No answer came to a request that the server may have carried out."""


@dataclass(frozen=True)
class RunInfo:
    """As `mlflow.entities.RunInfo`, what we read of it."""

    run_id: str
    experiment_id: str
    status: str


@dataclass(frozen=True)
class RunData:
    """As `mlflow.entities.RunData`, what we read of it."""

    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RestRun:
    """As `mlflow.entities.Run`, what we read of it."""

    info: RunInfo
    data: RunData


@dataclass(frozen=True)
class RestExperiment:
    """As `mlflow.entities.Experiment`, what we read of it."""

    experiment_id: str
    lifecycle_stage: str


@dataclass(frozen=True)
class RestModelVersion:
    """As `mlflow.entities.model_registry.ModelVersion`, what we read of it."""

    tags: Mapping[str, str]


def is_understood(tracking_uri: str) -> bool:
    """Whether a tracking URI is a server's that needs no more than a name and a password, or a token.

    Proxies, certificates, signatures of clouds and workspaces are the library's business.
    """
    given = {name.upper() for name, value in os.environ.items() if value}
    special = {name for name in given if name.startswith("MLFLOW_TRACKING_")} - _UNDERSTOOD
    special |= given & {"MLFLOW_WORKSPACE", *_PROXIES}
    if tracking_uri.startswith("https://"):
        special |= given & _CERTIFICATES
    return tracking_uri.startswith(("http://", "https://")) and not special


class RestClient:
    """Methods of `mlflow.MlflowClient`, each with the arguments that we use; all raise `NotDone` or `Unsure`.

    address: of the server. ours: it is this machine's own, so credentials are not for it.
    Raises ValueError or httpx.InvalidURL for what no client can be made of.
    """

    def __init__(self, address: str, ours: bool = False):
        seconds = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or SECONDS)
        self._http = httpx.Client(
            base_url=address.rstrip("/") + _API,
            timeout=seconds,
            trust_env=False,  # see `is_understood`; and netrc has nothing to say here
            **({} if ours else _credentials()),
        )

    def search_experiments(self, max_results: int) -> list[RestExperiment]:
        """Some of the active experiments."""
        found = self._post("experiments/search", {"max_results": max_results})
        return [_experiment(each) for each in found.get("experiments", ())]

    def get_experiment_by_name(self, name: str) -> RestExperiment | None:
        """One experiment, or None."""
        answer = self._request("GET", "experiments/get-by-name", params={"experiment_name": name})
        if answer.status_code == httpx.codes.NOT_FOUND and _error_code(answer) == "RESOURCE_DOES_NOT_EXIST":
            return None
        return _experiment(_document(answer)["experiment"])

    def create_run(self, experiment_id: str, tags: Mapping[str, str]) -> RestRun:
        """A run that is RUNNING from now on; tag ``mlflow.runName`` names it."""
        asked = {
            "experiment_id": experiment_id,
            "user_id": tags.get("mlflow.user", "unknown"),
            "start_time": _now(),
            "tags": _pairs(tags),
        }
        return _run(self._post("runs/create", asked)["run"])

    def update_run(self, run_id: str, status: str) -> None:
        """Set a run's status."""
        self._post("runs/update", {"run_id": run_id, "status": status})

    def set_terminated(self, run_id: str, status: str) -> None:
        """End a run now."""
        self._post("runs/update", {"run_id": run_id, "status": status, "end_time": _now()})

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[MetricEntry] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """At most 1000 metrics, 100 parameters and 100 tags."""
        rows = [{**metric._asdict(), "value": _number(metric.value)} for metric in metrics]
        asked = {
            "run_id": run_id,
            "metrics": rows,
            "params": _pairs(params or {}),
            "tags": _pairs(tags or {}),
        }
        self._post("runs/log-batch", asked)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Set one tag of a run."""
        self._post("runs/set-tag", {"run_id": run_id, "key": key, "value": value})

    def search_runs(
        self, experiment_ids: Sequence[str], filter_string: str, max_results: int = 1000
    ) -> list[RestRun]:
        """The newest active runs of which the filter holds."""
        asked = {"experiment_ids": list(experiment_ids), "filter": filter_string, "max_results": max_results}
        return [_run(each) for each in self._post("runs/search", asked).get("runs", ())]

    def search_model_versions(self, filter_string: str) -> list[RestModelVersion]:
        """All versions of which the filter holds; more than a page of them are the library's to read."""
        answer = _document(self._request("GET", "model-versions/search", params={"filter": filter_string}))
        if answer.get("next_page_token"):
            raise NotDone("there is more than one page")
        return [RestModelVersion(_tags(each)) for each in answer.get("model_versions", ())]

    def _post(self, endpoint: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        return _document(self._request("POST", endpoint, json=asked))

    def _request(self, method: str, endpoint: str, **content: Any) -> httpx.Response:
        try:
            return self._http.request(method, endpoint, **content)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise NotDone(str(error)) from error
        except httpx.TransportError as error:
            raise Unsure(str(error)) from error


def _credentials() -> dict[str, Any]:
    """As the library reads them: a name with a password goes before a token."""
    name, password, token = (
        os.environ.get(f"MLFLOW_TRACKING_{each}") for each in ("USERNAME", "PASSWORD", "TOKEN")
    )
    if name and password:
        return {"auth": (name, password)}
    return {"headers": {"Authorization": f"Bearer {token}"}} if token else {}


def _document(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code != httpx.codes.OK:
        kind = Unsure if answer.is_server_error else NotDone
        raise kind(f"{answer.request.url.path} answers {answer.status_code}: {answer.text[:200]}")
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise NotDone(f"{answer.request.url.path} answers no JSON object")
    return found


def _error_code(answer: httpx.Response) -> str | None:
    try:
        return answer.json().get("error_code")
    except (ValueError, AttributeError):
        return None


def _experiment(document: Mapping[str, Any]) -> RestExperiment:
    return RestExperiment(document["experiment_id"], document["lifecycle_stage"])


def _run(document: Mapping[str, Any]) -> RestRun:
    info = document["info"]
    return RestRun(
        RunInfo(info["run_id"], info["experiment_id"], info["status"]),
        RunData(_tags(document.get("data", {}))),
    )


def _tags(document: Mapping[str, Any]) -> dict[str, str]:
    return {each["key"]: each.get("value", "") for each in document.get("tags", ())}


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _number(value: float) -> float | str:
    """JSON has no word for what is not finite; the API reads these."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _now() -> int:
    return int(time.time() * 1000)
