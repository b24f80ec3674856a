"""Pipeline runs read back from MLflow: which there were, what their stages made, and what differs between two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gigagan_core import environment
from gigagan_core.errors import GigaganError
from gigagan_core.text import plain
from gigagan_core.tracking.connection import Connection, named
from gigagan_core.tracking.mlflow_run import EXPERIMENT

_PAGE = 500
_PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class StageRunRecord:
    """One stage of a pipeline run.

    label: the stage's name, with its role where it has one. status: MLflow's. cached: an artifact that was there was
    used again. seconds: wall time, None while it runs. fingerprint, output_digest: of the artifact, "" where there is
    none. metrics: the last value of each, at the most images seen.
    """

    label: str
    run_id: str
    status: str
    cached: bool
    seconds: float | None
    fingerprint: str
    output_digest: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class PipelineRunRecord:
    """One pipeline run. started: in UTC. settings: as text, by dotted name. stages: in the order they began in."""

    run_id: str
    started: datetime
    status: str
    seconds: float | None
    settings: Mapping[str, str]
    stages: tuple[StageRunRecord, ...]


@dataclass(frozen=True)
class Differing:
    """A setting or a figure of two runs; None where one does not have it."""

    name: str
    first: Any
    second: Any


@dataclass(frozen=True)
class StagesBeside:
    """A stage of two runs, None where one does not have it. same: both hold the same artifact, byte for byte."""

    label: str
    first: StageRunRecord | None
    second: StageRunRecord | None
    same: bool


@dataclass(frozen=True)
class RunComparison:
    """settings: those that differ. stages: of both, side by side. figures: of the evaluation, all of them."""

    settings: tuple[Differing, ...]
    stages: tuple[StagesBeside, ...]
    figures: tuple[Differing, ...]


def pipeline_runs(
    tracking_uri: str | None = None, status: str | None = "FINISHED", limit: int = 20
) -> list[PipelineRunRecord]:
    """The newest pipeline runs, newest first.

    tracking_uri: default: this home's. status: MLflow's, None for any. limit: at most so many.
    Raises GigaganError where MLflow cannot be asked.
    """
    uri = tracking_uri or environment.mlflow_uri()
    try:
        client = Connection(uri).client
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return []
        wanted = "tags.`gigagan.run` = 'pipeline'" + (
            f" and attributes.status = '{status}'" if status else ""
        )
        parents = client.search_runs(
            [experiment.experiment_id], wanted, max_results=limit, order_by=["attributes.start_time DESC"]
        )
        return [_pipeline(parent, _children(client, parent)) for parent in parents]
    except GigaganError:
        raise
    except Exception as error:  # client, database and network each raise their own kinds
        raise GigaganError(
            f"{named(uri)} does not say which pipeline runs there were ({plain(error)}); start it, or set "
            "MLFLOW_TRACKING_URI"
        ) from error


def compare_runs(first: PipelineRunRecord, second: PipelineRunRecord) -> RunComparison:
    """What differs between two pipeline runs: settings, stage by stage the artifacts, and the figures."""
    stages = [{stage.label: stage for stage in run.stages} for run in (first, second)]
    beside = [
        StagesBeside(label, stages[0].get(label), stages[1].get(label), _same(label, stages))
        for label in dict.fromkeys([*stages[0], *stages[1]])
    ]
    figures = [_figures(run) for run in (first, second)]
    return RunComparison(
        settings=tuple(
            each for each in _beside(first.settings, second.settings) if each.first != each.second
        ),
        stages=tuple(beside),
        figures=tuple(_beside(*figures)),
    )


def _figures(run: PipelineRunRecord) -> dict[str, float]:
    """Of the evaluation, whose label names its protocol where that is not the demonstration's."""
    return {
        name: value
        for stage in run.stages
        if stage.label.partition(" ")[0] == "evaluate"
        for name, value in stage.metrics.items()
    }


def _same(label: str, stages: Sequence[Mapping[str, StageRunRecord]]) -> bool:
    digests = {each[label].output_digest if label in each else "" for each in stages}
    return len(digests) == 1 and digests != {""}


def _beside(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Differing]:
    return [
        Differing(name, first.get(name), second.get(name)) for name in sorted(first.keys() | second.keys())
    ]


def _children(client: Any, parent: Any) -> list[Any]:
    found: list[Any] = []
    token: str | None = ""
    while token is not None:
        page = client.search_runs(
            [parent.info.experiment_id],
            f"tags.`{_PARENT}` = '{parent.info.run_id}'",
            max_results=_PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token or None,
        )
        found += page
        token = page.token or None
    return found


def _pipeline(parent: Any, children: Sequence[Any]) -> PipelineRunRecord:
    return PipelineRunRecord(
        run_id=parent.info.run_id,
        started=datetime.fromtimestamp(parent.info.start_time / 1000, UTC),
        status=parent.info.status,
        seconds=_seconds(parent),
        settings=dict(parent.data.params),
        stages=tuple(_stage(child) for child in children),
    )


def _stage(run: Any) -> StageRunRecord:
    tags = run.data.tags
    return StageRunRecord(
        label=run.info.run_name,
        run_id=run.info.run_id,
        status=run.info.status,
        cached=tags.get("gigagan.cached") == "true",
        seconds=_seconds(run),
        fingerprint=tags.get("gigagan.fingerprint", ""),
        output_digest=tags.get("gigagan.output_digest", ""),
        metrics=dict(run.data.metrics),
    )


def _seconds(run: Any) -> float | None:
    return None if run.info.end_time is None else (run.info.end_time - run.info.start_time) / 1000
