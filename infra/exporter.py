"""Figures of Prefect, MLflow and the store for Prometheus: what alerts.yaml needs and no exporter of theirs gives.

Reads, at most every `--every` seconds, what the servers of `PREFECT_API_URL` and `MLFLOW_TRACKING_URI` and the store of
`GIGAGAN_STORE` answer, with the credentials that their clients read from the environment. A server that does not answer
is a figure too (``*_up 0``), and its other figures are left out: an alert sees a gap, never an old value.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily

from gigagan_core import environment
from gigagan_core.tracking.mlflow_run import EXPERIMENT
from gigagan_core.training.record import NON_FINITE

TIMEOUT_SECONDS = 10.0
RUN_LABELS = ("run", "run_id")
METRICS = {
    "gigagan_prefect_up": ("Whether Prefect's API answers.", ()),
    "gigagan_flow_runs_late": ("Flow runs that no worker has picked up in time.", ()),
    "gigagan_work_pool_ready": (
        "Whether a worker of the pool is online; a paused pool is left out.",
        ("pool",),
    ),
    "gigagan_mlflow_up": ("Whether MLflow answers.", ()),
    "gigagan_training_images_per_second": ("The newest figure of a training that runs.", RUN_LABELS),
    "gigagan_training_rollbacks": (
        "How often a training that runs went back from a loss that was not finite.",
        RUN_LABELS,
    ),
    "gigagan_fetch_failed_share": ("Failed URLs of an ingest that runs, 0 to 1.", RUN_LABELS),
    "gigagan_fetch_failed_share_limit": (
        "The share of failed URLs at which a partition stops the ingest.",
        RUN_LABELS,
    ),
    "gigagan_store_up": ("Whether the artifact store can be listed.", ()),
    "gigagan_store_listing_seconds": ("How long listing the store's top folder took.", ()),
}
Sample = tuple[str, tuple[str, ...], float]
"""Name, label values in the order of `METRICS`, value."""


def prefect_samples(api_url: str, auth: str | None = None) -> Iterator[Sample]:
    """Late runs and the pools that have a worker. Raises OSError where the API does not answer."""

    def ask(path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{api_url.rstrip('/')}/{path}", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        if auth:
            request.add_header("Authorization", f"Basic {base64.b64encode(auth.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return json.load(answer)

    late = ask("flow_runs/count", {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}})
    yield "gigagan_flow_runs_late", (), float(late)
    for pool in ask("work_pools/filter", {}):
        if not pool["is_paused"]:
            yield "gigagan_work_pool_ready", (pool["name"],), float(pool["status"] == "READY")


def mlflow_samples(client: Any) -> Iterator[Sample]:
    """Figures of the runs that are RUNNING. client: an `mlflow.MlflowClient`."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return
    for run in client.search_runs(
        [experiment.experiment_id], "attributes.status = 'RUNNING'", max_results=100
    ):
        labels = (run.info.run_name, run.info.run_id)
        metrics = run.data.metrics
        if "images_per_second" in metrics:
            yield "gigagan_training_images_per_second", labels, metrics["images_per_second"]
            rollbacks = client.list_artifacts(run.info.run_id, NON_FINITE)
            yield "gigagan_training_rollbacks", labels, float(len(rollbacks))
        failed = sum(value for name, value in metrics.items() if name.startswith("fetch/failed/"))
        asked = failed + metrics.get("fetch/success", 0.0)
        if asked:
            yield "gigagan_fetch_failed_share", labels, failed / asked
            limit = run.data.params.get("fetch.max_failed_share")
            if limit is not None:
                yield "gigagan_fetch_failed_share_limit", labels, float(limit)


def store_samples(uri: str) -> Iterator[Sample]:
    """That the store answers a listing, and how fast. Raises what its file system raises."""
    import fsspec

    fs, root = fsspec.core.url_to_fs(uri)
    started = time.monotonic()
    fs.invalidate_cache()
    if fs.exists(root):
        fs.ls(root, detail=False)
    yield "gigagan_store_listing_seconds", (), time.monotonic() - started


class Collector:
    """What `prometheus_client` collects; reading again at most every `every` seconds, however often it is scraped.

    sources: by the prefix of their ``_up`` metric, what gives the other samples or raises.
    """

    def __init__(self, sources: dict[str, Callable[[], Iterator[Sample]]], every: float = 30.0):
        self._sources, self._every = sources, every
        self._read_at, self._samples = -float("inf"), list[Sample]()
        self._lock = threading.Lock()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The names, without reading anything: called when it is registered."""
        return iter(_families([]))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Every metric of `METRICS`, those without a sample too."""
        with self._lock:
            if time.monotonic() - self._read_at >= self._every:
                self._samples = [sample for name in self._sources for sample in self._read(name)]
                self._read_at = time.monotonic()
            return iter(_families(self._samples))

    def _read(self, name: str) -> list[Sample]:
        try:
            return [*self._sources[name](), (f"gigagan_{name}_up", (), 1.0)]
        except Exception as error:  # clients, databases and file systems each raise their own kinds
            print(f"exporter: {name} does not answer: {type(error).__name__}", flush=True)
            return [(f"gigagan_{name}_up", (), 0.0)]


def _families(samples: list[Sample]) -> list[GaugeMetricFamily]:
    families = {
        name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in METRICS.items()
    }
    for name, labels, value in samples:
        families[name].add_metric(labels, value)
    return list(families.values())


def sources_of_environment() -> dict[str, Callable[[], Iterator[Sample]]]:
    """The servers and the store that the environment names; Prefect only where `PREFECT_API_URL` is set."""
    # A client that waits through its retries would hold up every scrape.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(TIMEOUT_SECONDS)))
    environment.set_defaults()
    from mlflow import MlflowClient

    api_url, auth = os.environ.get("PREFECT_API_URL"), os.environ.get("PREFECT_API_AUTH_STRING")
    client = MlflowClient(tracking_uri=environment.mlflow_uri())
    sources: dict[str, Callable[[], Iterator[Sample]]] = {
        "mlflow": lambda: mlflow_samples(client),
        "store": lambda: store_samples(environment.store_uri()),
    }
    if api_url:
        sources["prefect"] = lambda: prefect_samples(api_url, auth)
    return sources


def main() -> None:
    """Serve /metrics until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9464)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two looks at the servers")
    options = parser.parse_args()
    registry = CollectorRegistry()
    registry.register(Collector(sources_of_environment(), options.every))
    start_http_server(options.port, options.host, registry)
    print(f"exporter: http://{options.host}:{options.port}/metrics", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
