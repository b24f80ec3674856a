"""The events of the flows: what each payload names, and that a server's trigger makes parameters of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.server.events.actions import RunDeployment
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent, Resource
from prefect.utilities.schema_tools.hydration import HydrationContext, hydrate

from flows import events
from gigagan_core.stages.base import StageRecord
from gigagan_core.store.artifact import Artifact

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def artifact(stage: str, kind: str, **manifest: Any) -> Artifact:
    return Artifact(stage, kind, "f" * 64, 1, "d" * 64, "/store/x", {"created": "2025-01-02", **manifest})


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "emit_event", lambda event, **given: found.append({"event": event, **given}))
    return found


def of_flow(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__FLOW_NAME", name)


def received(event: dict[str, Any]) -> ReceivedEvent:
    return ReceivedEvent(
        occurred="2025-01-02T03:04:05Z",
        event=event["event"],
        resource=Resource.model_validate(event["resource"]),
        payload=event["payload"],
        id="11111111-1111-1111-1111-111111111111",
        received="2025-01-02T03:04:05Z",
    )


def started_by(event: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Parameters of each local deployment whose trigger the event meets, as Prefect's server renders them."""
    started = {}
    for deployment in DEPLOYMENTS:
        for trigger in deployment.get("triggers", []) if deployment["work_pool"]["name"] == "local" else ():
            described = {key: trigger[key] for key in ("expect", "match")}
            if not EventTrigger(posture="Reactive", threshold=1, within=0, **described).covers(
                received(event)
            ):
                continue
            parameters = dict(trigger["parameters"])
            RunDeployment._upgrade_v1_templates(parameters)
            context = HydrationContext(
                render_jinja=True, raise_on_error=True, jinja_context={"event": received(event)}
            )
            started[deployment["name"]] = hydrate(parameters, context)
    return started


def test_a_new_training_set_starts_the_next_flow_with_it_and_a_cached_one_does_not(
    emitted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_flow(monkeypatch, "curate")
    made = artifact("curate", "shard-set")
    events.announce(StageRecord("curate", made, cached=True, seconds=0), "/store")
    assert emitted == []
    events.announce(StageRecord("curate", made, cached=False, seconds=0), "/store")
    (event,) = emitted
    assert started_by(event) == {"train-base": {"data": "f" * 64, "store": "/store"}}


def test_the_held_out_set_and_the_pipelines_own_sets_start_nothing(
    emitted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_flow(monkeypatch, "ingest")
    for label in ("ingest heldout", "ingest train"):
        line = StageRecord(label, artifact("ingest", "shard-set"), cached=False, seconds=0)
        events.announce(line, "/store")
    of_flow(monkeypatch, "pipeline")
    events.announce(StageRecord("curate", artifact("curate", "shard-set"), False, 0), "/store")
    assert [list(started_by(event)) for event in emitted] == [[], ["curate"], []]


def test_a_registered_model_is_evaluated_and_a_control_is_none(
    emitted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_flow(monkeypatch, "train-base")
    line = StageRecord("train-base", artifact("train-base", "base-model"), cached=False, seconds=0)
    events.announce(line, "/store")
    control = artifact("train-upsampler", "upsampler-model", settings={"training": {"objective": "l1"}})
    events.announce(StageRecord("train-upsampler-l1", control, False, 0), "/store")
    assert [event["event"] for event in emitted] == [
        events.ARTIFACT_CREATED,
        events.MODEL_REGISTERED,
        events.ARTIFACT_CREATED,
    ]
    assert started_by(emitted[1]) == {"evaluate": {"model": "f" * 64, "store": "/store"}}


def test_an_evaluation_that_passed_is_promoted_by_its_own_requirements(
    emitted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_flow(monkeypatch, "evaluate")
    report = artifact("evaluate", "report", inputs={"model": {"fingerprint": "a" * 64}})
    events.announce_passed(report, "/store", ["fd<0.2", "recall>0.1"], strict=True)
    (event,) = emitted
    assert event["payload"]["model"] == "a" * 64
    (parameters,) = started_by(event).values()
    expected = {
        "report": "f" * 64,
        "require": ["fd<0.2", "recall>0.1"],
        "strict": True,
        "despite_cautions": False,
        "store": "/store",
    }
    assert parameters == expected
    flow = load_flow_from_entrypoint(str(ROOT / "flows" / "promote.py") + ":promote")
    assert flow.validate_parameters(parameters)["require"] == expected["require"]
