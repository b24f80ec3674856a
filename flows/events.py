"""The events that flows emit, and that the triggers of prefect.yaml wait for.

Each payload names what the next flow needs; a trigger puts it into that flow's parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect.events import emit_event
from prefect.runtime import flow_run

from gigagan_core.stages.base import StageRecord
from gigagan_core.store.artifact import Artifact
from gigagan_core.text import plain
from gigagan_core.tracking.registry import registered_name

ARTIFACT_CREATED = "gigagan.artifact.created"
"""A stage has committed an artifact; one that was found in the store is none."""
MODEL_REGISTERED = "gigagan.model.registered"
"""A model has become a version of a registered one."""
EVALUATION_PASSED = "gigagan.evaluation.passed"
"""A report meets the requirements that its evaluation was given."""


def announce(line: StageRecord, store: str) -> None:
    """Tell that a stage has made something. store: URI."""
    if line.cached:
        return
    artifact = line.artifact
    _emit(ARTIFACT_CREATED, artifact, store, {"gigagan.label": plain(line.label)})
    name = registered_name(artifact)
    if name is not None:
        _emit(MODEL_REGISTERED, artifact, store, {"gigagan.model": name})


def announce_passed(
    report: Artifact, store: str, requirements: Sequence[str], strict: bool, despite_cautions: bool = False
) -> None:
    """Tell that a report has met its requirements."""
    judged = report.manifest.get("inputs", {}).get("model") or {}
    payload = {
        "requirements": list(requirements),
        "strict": strict,
        "despite_cautions": despite_cautions,
        "model": judged.get("fingerprint"),
    }
    _emit(EVALUATION_PASSED, report, store, {}, payload)


def _emit(
    event: str,
    artifact: Artifact,
    store: str,
    labels: dict[str, str],
    payload: dict[str, Any] | None = None,
) -> None:
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"gigagan.artifact.{artifact.output_digest}",
            "prefect.resource.name": f"{artifact.kind} {artifact.short}",
            "gigagan.kind": artifact.kind,
            "gigagan.stage": artifact.stage,
            # The pipeline makes what follows itself; a trigger would make it a second time.
            "gigagan.flow": flow_run.flow_name or "none",
            **labels,
        },
        payload={
            "fingerprint": artifact.fingerprint,
            "output_digest": artifact.output_digest,
            "kind": artifact.kind,
            "uri": artifact.uri,
            "store": store,
            "mlflow": artifact.manifest.get("mlflow"),
            **(payload or {}),
        },
    )
