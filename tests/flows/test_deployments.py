"""`prefect.yaml`: a deployment for every flow, whose entrypoint loads and whose parameters fit."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._triggers import _initialize_deployment_triggers
from prefect.flows import Flow, load_flow_from_entrypoint

from flows import events

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def name_of(deployment: dict[str, Any]) -> str:
    return f"{deployment['entrypoint'].partition(':')[2]}/{deployment['name']}"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=name_of)
def test_a_deployment_loads_and_its_parameters_fit(deployment: dict[str, Any]) -> None:
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert flow.validate_parameters(deployment["parameters"])
    assert deployment["description"].endswith(".")
    assert "gigagan" in deployment["tags"]
    assert deployment["work_pool"]["name"] == (
        "kubernetes" if deployment["name"] == "kubernetes" else "local"
    )


def test_a_parameter_that_does_not_fit_would_be_seen() -> None:
    flow = load_flow_from_entrypoint("flows/train_upsampler.py:train_upsampler")
    with pytest.raises(Exception, match="gan"):
        flow.validate_parameters({"objective": "l2"})
    with pytest.raises(Exception, match="overide"):
        flow.validate_parameters({"overide": []})


def test_every_flow_has_a_deployment_and_each_name_is_used_once_for_a_flow() -> None:
    defined = set()
    for path in sorted((ROOT / "flows").glob("*.py")):
        if "@flow(" in path.read_text():
            module = load_flow_from_entrypoint(f"flows/{path.name}:{path.stem}")
            assert isinstance(module, Flow)
            defined.add(f"flows/{path.name}:{path.stem}")
    deployed = [(deployment["entrypoint"], deployment["name"]) for deployment in DEPLOYMENTS]
    assert {entrypoint for entrypoint, _ in deployed} == defined
    assert len(set(deployed)) == len(deployed)


def test_no_path_of_one_machine_is_in_the_file() -> None:
    text = (ROOT / "prefect.yaml").read_text()
    assert str(ROOT) not in text
    assert "{{ $GIGAGAN_ROOT }}" in text


def test_every_parameter_is_typed_and_explained_on_the_form() -> None:
    for deployment in DEPLOYMENTS:
        flow = load_flow_from_entrypoint(deployment["entrypoint"])
        for name, parameter in inspect.signature(flow.fn).parameters.items():
            assert parameter.annotation is not inspect.Parameter.empty, (flow.name, name)
            assert f"        {name}: " in (flow.fn.__doc__ or ""), (flow.name, name)


def test_settings_are_a_form_with_every_field() -> None:
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(load_flow_from_entrypoint("flows/pipeline.py:pipeline").fn)
    assert {"PipelineSettings", "IngestSettings", "BaseTrainingSettings"} <= set(schema.definitions)
    assert schema.properties["overrides"]["description"].startswith("changes to them")


def test_every_flow_runs_on_both_work_pools() -> None:
    pools: dict[str, set[str]] = {}
    for deployment in DEPLOYMENTS:
        pools.setdefault(deployment["entrypoint"], set()).add(deployment["work_pool"]["name"])
    assert all(names == {"local", "kubernetes"} for names in pools.values()), pools


def test_nothing_starts_by_itself() -> None:
    for deployment in DEPLOYMENTS:
        for schedule in deployment.get("schedules", []):
            assert schedule["active"] is False, name_of(deployment)
        for trigger in deployment.get("triggers", []):
            assert trigger["enabled"] is False, name_of(deployment)
    assert [name_of(each) for each in DEPLOYMENTS if each.get("schedules")] == [
        "ingest/nightly",
        "ingest/kubernetes",
    ]


def shared_starts(deployments: list[dict[str, Any]]) -> list[str]:
    """Deployments whose schedule or trigger is the very one of another, by an anchor: who edits it turns on both."""
    known: set[int] = set()
    found = []
    for deployment in deployments:
        for kind in ("schedules", "triggers"):
            given = deployment.get(kind, [])
            own = {id(given), *map(id, given)} if given else set()
            found += [f"{name_of(deployment)}: {kind}"] if own & known else []
            known |= own
    return found


def test_each_deployment_is_turned_on_by_itself() -> None:
    assert shared_starts(DEPLOYMENTS) == []
    inherited = """
    - &a {name: a, entrypoint: "f.py:f", triggers: [{enabled: false}]}
    - {<<: *a, name: b}
    - {name: c, entrypoint: "f.py:f", schedules: [&s {active: false}]}
    - {name: d, entrypoint: "f.py:f", schedules: [*s]}
    """
    assert shared_starts(yaml.safe_load(inherited)) == ["f/b: triggers", "f/d: schedules"]


def test_a_flow_has_the_same_triggers_on_both_pools() -> None:
    by_pool: dict[str, dict[str, Any]] = {}
    for deployment in DEPLOYMENTS:
        if deployment.get("triggers"):
            pool = deployment["work_pool"]["name"]
            by_pool.setdefault(deployment["entrypoint"], {})[pool] = deployment["triggers"]
    assert len(by_pool) == 4
    for entrypoint, pools in by_pool.items():
        assert pools["local"] == pools["kubernetes"], entrypoint


def test_only_what_fetches_assets_has_a_pod_that_reaches_the_web() -> None:
    reaching = [each for each in DEPLOYMENTS if each["work_pool"]["job_variables"].get("egress") == "web"]
    assert [name_of(each) for each in reaching] == ["prepare_assets/kubernetes"]


def test_what_may_hold_gpus_runs_one_at_a_time() -> None:
    limited = {"limit": 1, "collision_strategy": "ENQUEUE"}
    with_gpus = [each for each in DEPLOYMENTS if "gpu" in each["tags"]]
    assert {each["entrypoint"].partition(":")[2] for each in with_gpus} >= {
        "train_base",
        "train_upsampler",
        "evaluate",
    }
    for deployment in with_gpus:
        assert deployment["concurrency_limit"] == limited, name_of(deployment)


EMITTED = {events.ARTIFACT_CREATED, events.MODEL_REGISTERED, events.EVALUATION_PASSED}
TRIGGERED = [(each, trigger) for each in DEPLOYMENTS for trigger in each.get("triggers", [])]


@pytest.mark.parametrize(("deployment", "trigger"), TRIGGERED, ids=[name_of(each) for each, _ in TRIGGERED])
def test_a_trigger_waits_for_what_flows_emit_and_fills_parameters_that_there_are(
    deployment: dict[str, Any], trigger: dict[str, Any]
) -> None:
    assert set(trigger["expect"]) <= EMITTED
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert set(trigger["parameters"]) <= set(inspect.signature(flow.fn).parameters)
    (made,) = _initialize_deployment_triggers(deployment["name"], [dict(trigger)])
    assert made.enabled is False
    assert made.expect == set(trigger["expect"])


def test_each_step_of_the_way_to_production_has_a_trigger() -> None:
    waits = {
        deployment["entrypoint"].partition(":")[2]: trigger["expect"] for deployment, trigger in TRIGGERED
    }
    assert waits == {
        "curate": [events.ARTIFACT_CREATED],
        "train_base": [events.ARTIFACT_CREATED],
        "evaluate": [events.MODEL_REGISTERED],
        "promote": [events.EVALUATION_PASSED],
    }


def test_a_pod_has_cpus_memory_and_gpus_of_its_deployment() -> None:
    pool = json.loads((ROOT / "infra" / "kubernetes" / "work-pool.json").read_text())
    known = pool["variables"]["properties"]
    asked = [each["work_pool"]["job_variables"] for each in DEPLOYMENTS if each["name"] == "kubernetes"]
    assert asked
    kinds = {"string": str, "integer": int}
    for variables in asked:
        assert {"cpu_request", "cpu_limit", "memory_request", "memory_limit", "gpus"} <= set(variables)
        assert all(isinstance(value, kinds[known[name]["type"]]) for name, value in variables.items())
