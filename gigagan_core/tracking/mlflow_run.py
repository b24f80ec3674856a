"""Records in MLflow: one parent run a pipeline run, one child run a stage, metrics by images seen.

Everything goes through `MlflowClient` with explicit experiment and run ids. The fluent interface keeps a
run in global state, does not hand a parent's experiment to its child, and lets `MLFLOW_RUN_ID` in the
environment replace the parent.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import urllib.parse
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigagan_core import console, environment
from gigagan_core.errors import GigaganError
from gigagan_core.store.provenance import git_commit
from gigagan_core.text import plain
from gigagan_core.tracking import registry
from gigagan_core.tracking.connection import Connection, named
from gigagan_core.tracking.entries import (
    VALUE_LENGTH,
    MetricEntry,
    artifact_metrics,
    artifact_tags,
    as_strings,
    usage_metrics,
)
from gigagan_core.tracking.experiment import end_dead_runs, end_runs, experiment_id, run_url, user
from gigagan_core.tracking.null import NullRun
from gigagan_core.tracking.process import owner, sigterm_raises, was_stopped
from gigagan_core.tracking.spool import METRICS_A_BATCH, Spool

EXPERIMENT = "gigagan"
METRIC_NAME = re.compile(r"[A-Za-z0-9_\-./]+")
# What MLflow accepts in one request.
_PARAMS_A_BATCH = 100
# Metrics kept while MLflow is away, about 50 MB; the oldest go first.
_KEPT_METRICS = 100_000
# Tags that tell the runs of one flow run apart.
_SAME_WORK = ("gigagan.run", "gigagan.stage", "gigagan.fingerprint")
_DATASET_FIELDS = ("name", "digest", "source_type", "source", "schema", "profile")


@dataclass(frozen=True)
class RunHandle:
    """A run by name: picklable, for the worker process that logs into it."""

    tracking_uri: str
    experiment_id: str
    run_id: str

    def open(self) -> StageRun:
        """The run, through a connection of this process's own. Whoever started the run ends it."""
        return StageRun(Connection(self.tracking_uri), self.experiment_id, self.run_id)


class StageRun:
    """One MLflow run being written. `handle` gives a Ray worker what it needs to write into it too."""

    def __init__(self, connection: Connection, experiment_id: str, run_id: str):
        self._connection = connection
        self._experiment_id = experiment_id
        self.run_id = run_id
        self._pending: deque[MetricEntry] = deque(maxlen=_KEPT_METRICS)
        self._lock = threading.Lock()  # metrics come from several threads
        self._spool = Spool(connection.tracking_uri, run_id)
        self._told_full = False

    @property
    def url(self) -> str | None:
        """The run's page, where the tracking URI is a server; None for an SQLite file."""
        return run_url(self._connection.tracking_uri, self._experiment_id, self.run_id)

    def reference(self) -> dict[str, str]:
        """How a manifest names this run."""
        return {"experiment_id": self._experiment_id, "run_id": self.run_id}

    def handle(self) -> RunHandle:
        """A picklable name of this run."""
        return RunHandle(self._connection.tracking_uri, self._experiment_id, self.run_id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings by dotted name; a value longer than MLflow takes is cut."""
        entries = [(key, str(value)[:VALUE_LENGTH]) for key, value in params.items()]
        for start in range(0, len(entries), _PARAMS_A_BATCH):
            batch = dict(entries[start : start + _PARAMS_A_BATCH])
            self._connection.call("parameters", "log_batch", self.run_id, params=batch)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Figures at `step` images seen, in one round trip; names hold letters, digits and ``_-./``.

        Kept and sent later while MLflow is away, and meanwhile in a file that `gigagan records send` reads, should this
        process not live to see it. Raises ValueError for any other name.
        """
        now = int(time.time() * 1000)
        added = []
        for name, value in metrics.items():
            if not METRIC_NAME.fullmatch(name):
                raise ValueError(f"metric name {name!r}: only letters, digits and _-./ are allowed")
            added.append(MetricEntry(name, float(value), now, int(step)))
        with self._lock:
            self._pending.extend(added)
            self._send_pending(at_once=False)
            if self._pending:
                self._keep(added)

    def _keep(self, added: list[MetricEntry]) -> None:
        try:
            self._spool.append(added)
        except OSError as error:  # a full disk must not end what the figures are of
            if not self._told_full:
                console.warn(
                    f"metrics that wait for MLflow cannot be kept in {self._spool.path} ({error.strerror}); they are "
                    "lost if this run ends before MLflow answers"
                )
            self._told_full = True

    def flush(self, at_once: bool = False) -> None:
        """Send the metrics that wait; at_once: though MLflow has just refused."""
        with self._lock:
            self._send_pending(at_once)

    def _send_pending(self, at_once: bool) -> None:
        if not self._pending:
            return
        while self._pending:
            batch = list(self._pending)[:METRICS_A_BATCH]
            if not self._connection.call("metrics", "log_batch", self.run_id, metrics=batch, at_once=at_once):
                return
            for _ in batch:
                self._pending.popleft()
        self._spool.clear()

    def log_image(self, key: str, image: Any, step: int = 0) -> None:
        """A picture at `step` images seen; MLflow shows one key's pictures as a series.

        image: a path, a PIL image, or a uint8 array [H,W,3].
        """
        if not METRIC_NAME.fullmatch(key):
            raise ValueError(f"image key {key!r}: only letters, digits and _-./ are allowed")
        if isinstance(image, (str, Path)):
            from PIL import Image

            with Image.open(image) as file:
                image = file.convert("RGB")
        self._connection.call(f"the picture {key}", "log_image", self.run_id, image, key=key, step=int(step))

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A file, or a folder with all that is in it."""
        method = "log_artifacts" if Path(path).is_dir() else "log_artifact"
        self._connection.call(
            f"the file {Path(path).name}", method, self.run_id, str(path), artifact_path=folder
        )

    def keep_log(self, log: Path) -> None:
        """What the stage said while it worked, as a file."""
        self.log_artifact(log)

    def log_usage(self, used: Mapping[str, Any]) -> None:
        """Hours that a stage has taken, and their cost where it is known (`stages.usage.usage`)."""
        self.log_metrics(usage_metrics(used))

    def log_dataset(self, name: str, uri: str, digest: str, counts: Mapping[str, Any] | None = None) -> None:
        """The data that this run reads, as an MLflow data set input.

        name: what it is, e.g. "ingest-train". uri: where it lies. digest: its output digest.
        counts: rows in, out and rejected; kept as the data set's profile.
        """
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import Dataset, DatasetInput, InputTag

        with warnings.catch_warnings():
            # MLflow registers the same kind of local source twice, and warns that a path could be either.
            warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
            source = resolve_dataset_source(str(uri))
        # MLflow keeps 36 characters of a digest.
        described = MetaDataset(source, name=name, digest=digest[:36]).to_dict()
        described["profile"] = json.dumps(counts or {})
        entry = DatasetInput(
            dataset=Dataset(**{key: described.get(key) for key in _DATASET_FIELDS}),
            tags=[InputTag("mlflow.data.context", name)],
        )
        self._connection.call(f"the data set {name}", "log_inputs", self.run_id, datasets=[entry])

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Facts to search runs by; a tag whose value is None is left out."""
        self._connection.call("tags", "log_batch", self.run_id, tags=as_strings(tags))

    def finish(self, artifact: Any) -> None:
        """Record what the stage made: its name, and `log_result`. Waits for a server that is restarted."""
        tags = as_strings(artifact_tags(artifact))
        if not self._connection.call("tags", "log_batch", self.run_id, tags=tags):
            self._connection.await_answer()
            self._connection.call("tags", "log_batch", self.run_id, tags=tags)
        self.log_result(artifact)

    def log_result(self, artifact: Any) -> None:
        """Counts and figures of a committed artifact. A model becomes a version of a registered one, see `registry`."""
        self.log_metrics(artifact_metrics(artifact))
        registry.register(self._connection, self.run_id, artifact)

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED; unless it is KILLED, wait for a server that is restarted."""
        waits = status != "KILLED"
        if waits and self._pending:
            self._connection.await_answer()
        self.flush(at_once=True)
        if self._pending:
            console.warn(
                f"{named(self._connection.tracking_uri)} is still away: {len(self._pending)} metrics of run "
                f"{self.run_id} wait in {self._spool.path}; give `gigagan records send` when it is back"
            )
        ended = ("the end of a run", "set_terminated", self.run_id, status)
        if not self._connection.call(*ended, at_once=True) and waits:
            self._connection.await_answer()
            self._connection.call(*ended, at_once=True)


class MlflowTracker:
    """Opens runs. `stage_run` inside `pipeline_run` makes a child; alone it makes a run of its own.

    tracking_uri, experiment: where records go (default: `environment.mlflow_uri()`, "gigagan").
    tags: set on every run, e.g. the Prefect flow run's id. continue_by: name of one of these tags. A run with the same
    value of it, for the same work, is gone on with, so that a retry has one record; one that is done is left as it is.
    parent: a pipeline's run that another process opened, and will end. server: see `Connection`. alone: no other
    process records for the same value of continue_by at the same time, as jobs of a cluster do.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str = EXPERIMENT,
        tags: Mapping[str, Any] | None = None,
        continue_by: str | None = None,
        parent: RunHandle | None = None,
        server: str | None = None,
        alone: bool = False,
    ):
        self.tracking_uri = tracking_uri or environment.mlflow_uri()
        self.experiment = experiment
        self._connection = Connection(self.tracking_uri, server)
        self._tags = dict(tags or {})
        self._experiment_id: str | None = None
        self._parent: StageRun | None = None
        self._continue_by = continue_by
        self._alone, self._first_try = alone, False
        if parent is not None:
            self._experiment_id = parent.experiment_id
            self._parent = StageRun(self._connection, parent.experiment_id, parent.run_id)
        self.ended: list[dict[str, str]] = []
        """Tags of the runs that a dead process had left open, and that this tracker ended."""

    def reference(self) -> dict[str, Any]:
        """What another process needs to record beside this one, JSON-able; see `of`.

        An address with a password in it is left out: that process has one of its own in its environment.
        """
        address = urllib.parse.urlsplit(self.tracking_uri)
        return {
            "tracking_uri": None if address.password else self.tracking_uri,
            "experiment": self.experiment,
            "tags": as_strings(self._tags),
            "continue_by": self._continue_by,
            "parent": self._parent.reference() if self._parent else None,
        }

    @classmethod
    def of(cls, reference: Mapping[str, Any], tags: Mapping[str, Any] | None = None) -> MlflowTracker:
        """The tracker that another one's `reference` describes. tags: more of them."""
        uri = reference["tracking_uri"] or environment.mlflow_uri()
        parent = RunHandle(uri, **reference["parent"]) if reference["parent"] else None
        all_tags = {**reference["tags"], **(tags or {})}
        return cls(uri, reference["experiment"], all_tags, reference["continue_by"], parent)

    def end_left_open(
        self, is_over: Callable[[Mapping[str, str]], bool], why: str, tags: Mapping[str, str] | None = None
    ) -> list[dict[str, str]]:
        """End as KILLED runs that are RUNNING and over, see `experiment.end_runs`; returns their tags.

        Nothing is raised: a record that cannot be closed now is closed by the next start.
        """
        try:
            found = self._connection.ask("get_experiment_by_name", self.experiment)
            return end_runs(self._connection, found.experiment_id, is_over, why, tags) if found else []
        except Exception as error:  # client, database and network each raise their own kinds
            console.warn(f"{named(self.tracking_uri)} did not close runs that are over: {plain(error)}")
            return []

    @contextlib.contextmanager
    def pipeline_run(
        self, name: str, params: Mapping[str, Any] | None = None, tags: Mapping[str, Any] | None = None
    ) -> Iterator[StageRun]:
        """The parent of every stage run inside the block.

        Ends FINISHED, FAILED after an exception, KILLED after Ctrl-C or SIGTERM.
        Raises GigaganError where MLflow cannot be used.
        """
        run = self._start(name, {"gigagan.run": "pipeline", **(tags or {})})
        self._parent = run
        try:
            with _ending(run):
                run.log_params(params or {})
                yield run
        finally:
            self._parent = None

    @contextlib.contextmanager
    def stage_run(
        self, name: str, params: Mapping[str, Any] | None = None, tags: Mapping[str, Any] | None = None
    ) -> Iterator[StageRun | NullRun]:
        """The run of one stage, ended like a pipeline's.

        Should MLflow go away in the middle of a pipeline, the stage runs and is not recorded.
        """
        run = self._start_child(name, {"gigagan.run": "stage", **(tags or {})})
        with _ending(run):
            run.log_params(params or {})
            yield run

    def record_cached(self, name: str, artifact: Any) -> StageRun | NullRun:
        """A finished run that says which artifact was used again, and which run had made it."""
        made_by = artifact.manifest.get("mlflow") or {}
        tags = {
            "gigagan.run": "stage",
            "gigagan.stage": artifact.stage,
            "gigagan.cached": "true",
            "gigagan.reused": f"{artifact.short}, made {artifact.manifest['created'][:19]}",
            "gigagan.made_by_run": made_by.get("run_id"),
            **artifact_tags(artifact),
        }
        earlier = self._earlier(name, tags)
        if (
            earlier is not None
            and earlier.info.status == "FINISHED"
            and earlier.data.tags.get("gigagan.output_digest") == artifact.output_digest
        ):  # an earlier try of this very flow run, or its job
            return StageRun(self._connection, earlier.info.experiment_id, earlier.info.run_id)
        run = self._start(name, tags) if self._parent is None else self._child(name, tags, earlier)
        with _ending(run):
            run.log_result(artifact)
        return run

    def _start_child(self, name: str, tags: Mapping[str, Any]) -> StageRun | NullRun:
        if self._parent is None:
            return self._start(name, tags)
        return self._child(name, tags, self._earlier(name, tags))

    def _child(self, name: str, tags: Mapping[str, Any], earlier: Any) -> StageRun | NullRun:
        """earlier: `_earlier`."""
        created = self._reopened(earlier, name, tags) or self._connection.call(
            f"a run for {name}", "create_run", self._experiment_id, tags=self._all_tags(name, tags)
        )
        if not created:
            return NullRun()
        return StageRun(self._connection, str(self._experiment_id), created.info.run_id)

    def _reopened(self, earlier: Any, name: str, tags: Mapping[str, Any]) -> Any:
        """An earlier try's run, open again; None where there is none that was cut off."""
        if earlier is None or earlier.info.status == "FINISHED":
            return None
        what, run_id = f"a run for {name}", earlier.info.run_id
        self._connection.call(what, "update_run", run_id, status="RUNNING")
        StageRun(self._connection, str(self._experiment_id), run_id).set_tags(self._all_tags(name, tags))
        # What the try before said of its end.
        if "gigagan.error" in earlier.data.tags:
            self._connection.call(what, "delete_tag", run_id, "gigagan.error")
        return earlier

    def _earlier(self, name: str, tags: Mapping[str, Any]) -> Any:
        """The newest run of this name with the same asker, for the same work; None where there is none."""
        asker = self._tags.get(self._continue_by or "")
        if not asker or self._experiment_id is None or self._first_try:
            return None
        wanted = {str(self._continue_by): asker, **{key: tags[key] for key in _SAME_WORK if key in tags}}
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in wanted.items())
        runs = self._connection.call(f"a run for {name}", "search_runs", [self._experiment_id], query)
        named = [run for run in runs or () if run.data.tags.get("mlflow.runName") == name]
        return named[0] if named else None

    def _start(self, name: str, tags: Mapping[str, Any]) -> StageRun:
        try:
            if self._experiment_id is None:
                self._experiment_id = experiment_id(self._connection, self.experiment)
                self.ended = end_dead_runs(self._connection, self._experiment_id)
            earlier = self._earlier(name, tags)
            created = self._reopened(earlier, name, tags) or self._connection.ask(
                "create_run", self._experiment_id, tags=self._all_tags(name, tags)
            )
            self._first_try = self._alone and earlier is None
        except GigaganError:
            raise
        except Exception as error:  # client, database and network each raise their own kinds
            raise GigaganError(
                f"{named(self.tracking_uri)} cannot be used ({plain(error)}); start that server, or "
                "unset MLFLOW_TRACKING_URI to keep records in the local database"
            ) from error
        return StageRun(self._connection, self._experiment_id, created.info.run_id)

    def _all_tags(self, name: str, tags: Mapping[str, Any]) -> dict[str, str]:
        return as_strings(
            {
                "mlflow.runName": name,
                "mlflow.user": user(),
                "mlflow.source.name": "gigagan",
                "mlflow.source.git.commit": git_commit(),
                "mlflow.parentRunId": self._parent.run_id if self._parent else None,
                "gigagan.process": owner(),
                **self._tags,
                **tags,
            }
        )


@contextlib.contextmanager
def _ending(run: StageRun | NullRun) -> Iterator[None]:
    """Close `run` with the status that the way out of the block calls for."""
    if isinstance(run, NullRun):
        yield
        return
    status = "FINISHED"
    try:
        with sigterm_raises():
            yield
    except BaseException as error:
        # Ctrl-C, SIGTERM, a cancelled flow: stopped, not failed.
        status = "KILLED" if was_stopped(error) else "FAILED"
        if status == "FAILED":
            run.set_tags({"gigagan.error": f"{type(error).__name__}: {plain(error, limit=1000)}"})
        raise
    finally:
        run.end(status)
