"""`prefect.yaml`: a deployment for every flow, whose entrypoint loads and whose parameters fit."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.flows import Flow, load_flow_from_entrypoint

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_a_deployment_loads_and_its_parameters_fit(deployment: dict[str, Any]) -> None:
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert flow.validate_parameters(deployment["parameters"])
    assert deployment["description"].endswith(".")
    assert "gigagan" in deployment["tags"]
    assert deployment["work_pool"]["name"] == "local"


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
