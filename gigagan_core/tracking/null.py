"""The tracker that keeps no records: for tests, notebooks and library use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


class NullRun:
    """A run that forgets. The same methods as `mlflow_run.StageRun`, which documents them."""

    run_id: str | None = None
    url: str | None = None

    def log_params(self, params: Mapping[str, Any]) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None: ...

    def log_image(self, key: str, image: Any, step: int = 0) -> None: ...

    def log_artifact(self, path: Any, folder: str | None = None) -> None: ...

    def keep_log(self, log: Path) -> None: ...

    def log_usage(self, used: Mapping[str, Any]) -> None: ...

    def log_dataset(
        self, name: str, uri: str, digest: str, counts: Mapping[str, Any] | None = None
    ) -> None: ...

    def set_tags(self, tags: Mapping[str, Any]) -> None: ...

    def finish(self, artifact: Any) -> None: ...

    def log_result(self, artifact: Any) -> None: ...

    def reference(self) -> dict[str, str] | None:
        return None

    def handle(self) -> NullHandle:
        return NullHandle()


class NullHandle:
    """Picklable; opens to a `NullRun`."""

    def open(self) -> NullRun:
        return NullRun()


class NullTracker:
    """The same methods as `mlflow_run.MlflowTracker`, which documents them."""

    tracking_uri: str | None = None
    experiment: str | None = None
    ended: tuple[dict[str, str], ...] = ()

    def reference(self) -> dict[str, Any] | None:
        return None

    @classmethod
    def of(cls, reference: Mapping[str, Any], tags: Mapping[str, Any] | None = None) -> NullTracker:
        return cls()

    def end_left_open(
        self, is_over: Callable[[Mapping[str, str]], bool], why: str, tags: Mapping[str, str] | None = None
    ) -> list[dict[str, str]]:
        return []

    @contextlib.contextmanager
    def pipeline_run(
        self, name: str, params: Mapping[str, Any] | None = None, tags: Mapping[str, Any] | None = None
    ) -> Iterator[NullRun]:
        yield NullRun()

    @contextlib.contextmanager
    def stage_run(
        self, name: str, params: Mapping[str, Any] | None = None, tags: Mapping[str, Any] | None = None
    ) -> Iterator[NullRun]:
        yield NullRun()

    def record_cached(self, name: str, artifact: Any) -> NullRun:
        return NullRun()
