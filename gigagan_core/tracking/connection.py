"""A connection to MLflow whose failures cost a warning, never the work."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from gigagan_core import console, environment
from gigagan_core.errors import GigaganError
from gigagan_core.text import plain, without_password
from gigagan_core.tracking.entries import MetricEntry

RETRY_AFTER_SECONDS = 30.0
# What a run ends with is worth waiting for a server that is being restarted, once.
AWAIT_SECONDS, AWAIT_POLL_SECONDS = 90.0, 1.0
_REQUEST = "gigagan.request"
"""Tag of a run: which request made it, should its answer be lost."""


class Connection:
    """MLflow's library, made on first use since its import takes seconds; where a server is there, `rest` before it.

    tracking_uri: an SQLite file (``sqlite:////path/mlflow.db``) or a server's address. server: address of a server of
    this machine's own that serves the records of `tracking_uri` at the moment.
    """

    def __init__(self, tracking_uri: str, server: str | None = None):
        self.tracking_uri = tracking_uri
        self._client: Any = None
        self._light = _light(tracking_uri, server)
        self._warned = False
        self._retry_at = 0.0
        self._waited_in_vain = False

    @property
    def client(self) -> Any:
        """The `mlflow.MlflowClient`; raises whatever MLflow raises where it cannot be reached."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """``client.method(*args, **kwargs)``, without the library where that is possible.

        `log_batch` and `create_run` take what `rest.RestClient` documents. What a server does not do at once is asked
        of the library from then on, which tries again in its own ways, and raises whatever it raises.
        """
        light = self._light  # another thread may give it up meanwhile
        if light is not None and hasattr(light, method):
            from gigagan_core.tracking.rest import NotDone, Unsure

            if method == "create_run":
                kwargs["tags"] = {**kwargs["tags"], _REQUEST: uuid.uuid4().hex}
            try:
                return getattr(light, method)(*args, **kwargs)
            except NotDone as error:
                self._light = None
                # All else may be done twice, and is then as if it were done once.
                if isinstance(error, Unsure) and method == "create_run":
                    return self._made_or_new(*args, **kwargs)
        if method == "log_batch":
            kwargs = _entities(**kwargs)
        return getattr(self.client, method)(*args, **kwargs)

    def _made_or_new(self, experiment_id: str, tags: Mapping[str, str]) -> Any:
        """The run of a request whose answer was lost, or a new one where the request was lost too."""
        query = f"tags.`{_REQUEST}` = '{tags[_REQUEST]}'"
        found = self.client.search_runs([experiment_id], query, max_results=1)
        return found[0] if found else self.client.create_run(experiment_id, tags=tags)

    def call(self, what: str, method: str, *args: Any, at_once: bool = False, **kwargs: Any) -> Any:
        """What `ask` gives (True for None), or False if it failed.

        A record that cannot be written must not end hours of training: a failure is said once, and for
        `RETRY_AFTER_SECONDS` nothing is tried, since each try may block for the client's own retries.
        what: the thing recorded, for the sentence. at_once: try though a call has just failed.
        """
        if time.monotonic() < self._retry_at and not at_once:
            return False
        try:
            result = self.ask(method, *args, **kwargs)
        except Exception as error:  # client, database and network each raise their own kinds
            self._retry_at = time.monotonic() + RETRY_AFTER_SECONDS
            if not self._warned:
                console.warn(
                    f"{named(self.tracking_uri)} did not take {what} "
                    f"({type(error).__name__}: {plain(error)}); the work goes on, and metrics are kept "
                    "and sent when it answers again"
                )
                self._warned = True
            return False
        self._retry_at = 0.0
        if self._warned:
            console.note(f"{named(self.tracking_uri)} answers again")
            self._warned = False
        return True if result is None else result

    def await_answer(self) -> None:
        """Return when MLflow answers, at the latest after `AWAIT_SECONDS`; not again before it has answered."""
        deadline = time.monotonic() + (0.0 if self._waited_in_vain else AWAIT_SECONDS)
        while not self.call("what ends a run", "search_experiments", max_results=1, at_once=True):
            if time.monotonic() >= deadline:
                self._waited_in_vain = True
                return
            time.sleep(AWAIT_POLL_SECONDS)
        self._waited_in_vain = False

    def _connect(self) -> Any:
        environment.set_defaults()
        # A server that is away would otherwise block each call for minutes of retries.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        # Otherwise creating the database announces every migration.
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        path = sqlite_path(self.tracking_uri)
        if path is not None and not os.path.exists(path):
            console.note(f"creating MLflow's database {path} (once, about 10 s)")
            try:
                os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            except OSError as error:
                raise GigaganError(
                    f"MLflow's folder {os.path.dirname(path)} cannot be created: {error.strerror}; "
                    "check GIGAGAN_HOME or MLFLOW_TRACKING_URI"
                ) from None
        from mlflow.tracking.client import MlflowClient

        return MlflowClient(tracking_uri=self.tracking_uri)


def _light(tracking_uri: str, server: str | None) -> Any:
    """A client without the library, or None where that has to do it all."""
    if server is None and not tracking_uri.startswith("http"):
        return None
    from gigagan_core.tracking.rest import RestClient, is_understood

    if server is None and not is_understood(tracking_uri):
        return None
    try:
        return RestClient(server or tracking_uri, ours=server is not None)
    except Exception:  # an address or a time-out that is none: the library has words for it
        return None


def _entities(
    metrics: Sequence[MetricEntry] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> dict[str, list[Any]]:
    """The arguments of `MlflowClient.log_batch`."""
    from mlflow.entities import Metric, Param, RunTag

    return {
        "metrics": [Metric(*each) for each in metrics],
        "params": [Param(*pair) for pair in (params or {}).items()],
        "tags": [RunTag(*pair) for pair in (tags or {}).items()],
    }


def named(tracking_uri: str) -> str:
    """MLflow, as sentences call it."""
    return f"MLflow at {without_password(tracking_uri)}"


def sqlite_path(tracking_uri: str) -> str | None:
    """The file of an ``sqlite:///`` URI, or None for any other."""
    prefix = "sqlite:///"
    return tracking_uri[len(prefix) :] if tracking_uri.startswith(prefix) else None
