"""A connection to MLflow whose failures cost a warning, never the work."""

from __future__ import annotations

import os
import time
from typing import Any

from gigagan_core import console, environment
from gigagan_core.errors import GigaganError
from gigagan_core.text import plain

RETRY_AFTER_SECONDS = 30.0
# What a run ends with is worth waiting for a server that is being restarted, once.
AWAIT_SECONDS, AWAIT_POLL_SECONDS = 90.0, 1.0


class Connection:
    """One MLflow client, made on first use: importing mlflow takes seconds.

    tracking_uri: an SQLite file (``sqlite:////path/mlflow.db``) or a server's address.
    """

    def __init__(self, tracking_uri: str):
        self.tracking_uri = tracking_uri
        self._client: Any = None
        self._warned = False
        self._retry_at = 0.0
        self._waited_in_vain = False

    @property
    def client(self) -> Any:
        """The `mlflow.MlflowClient`; raises whatever MLflow raises where it cannot be reached."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def call(self, what: str, method: str, *args: Any, at_once: bool = False, **kwargs: Any) -> Any:
        """``client.method(*args, **kwargs)`` and its result (True for None), or False if it failed.

        A record that cannot be written must not end hours of training: a failure is said once, and for
        `RETRY_AFTER_SECONDS` nothing is tried, since each try may block for the client's own retries.
        what: the thing recorded, for the sentence. at_once: try though a call has just failed.
        """
        if time.monotonic() < self._retry_at and not at_once:
            return False
        try:
            result = getattr(self.client, method)(*args, **kwargs)
        except Exception as error:  # client, database and network each raise their own kinds
            self._retry_at = time.monotonic() + RETRY_AFTER_SECONDS
            if not self._warned:
                console.warn(
                    f"MLflow at {self.tracking_uri} did not take {what} "
                    f"({type(error).__name__}: {plain(error)}); the work goes on, and metrics are kept "
                    "and sent when it answers again"
                )
                self._warned = True
            return False
        if self._warned:
            console.note(f"MLflow at {self.tracking_uri} answers again")
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


def sqlite_path(tracking_uri: str) -> str | None:
    """The file of an ``sqlite:///`` URI, or None for any other."""
    prefix = "sqlite:///"
    return tracking_uri[len(prefix) :] if tracking_uri.startswith(prefix) else None
