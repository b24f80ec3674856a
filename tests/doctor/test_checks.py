"""`gigagan doctor`: how checks are run, and the command."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections import namedtuple
from collections.abc import Iterable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gigagan_core.cli import doctor_command
from gigagan_core.cli.app import app
from gigagan_core.doctor import finding, machine
from gigagan_core.doctor.checks import checks
from gigagan_core.doctor.finding import Finding
from gigagan_core.doctor.request import Request

from .conftest import statuses

Usage = namedtuple("Usage", "total used free")


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on() -> None:
    def broken() -> Iterable[Finding]:
        raise ValueError("no such sensor")

    found = list(finding.run([("a", broken), ("b", lambda: [finding.ok("b", "well")])]))
    assert statuses(found) == ["fail", "ok"]
    assert found[0].what == "could not be looked at (ValueError: no such sensor)"


def test_every_finding_that_is_not_ok_has_a_mend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 1))
    monkeypatch.setattr(machine, "available_memory", lambda: 1)
    request = Request(store="/dev/null/store", backend="ray-job", preset="openmoji", plan=False)
    names = {"memory", "shared memory", "store", "disk", "ray", "gpus"}
    found = list(finding.run([pair for pair in checks(request) if pair[0] in names]))
    assert {each.name for each in found if each.status != "ok"} >= names - {"gpus"}
    assert all(each.mend for each in found if each.status != "ok")


def test_the_command_ends_with_1_where_something_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    quick = [
        ("memory", machine.memory),
        ("store", lambda: [finding.fail("store", "is [bold]full[/bold]", "empty it")]),
    ]
    monkeypatch.setattr("gigagan_core.doctor.checks.checks", lambda request: quick)
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 1
    assert "fail  store             is [bold]full[/bold] -> empty it" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "1 ok, 0 to look at, 1 to mend"
    capfd.readouterr()
    as_json = CliRunner().invoke(app, ["doctor", "--json", "--store", str(tmp_path)])
    assert as_json.exit_code == 1
    document = json.loads(capfd.readouterr().out)
    assert (document["ok"], document["fail"]) == (1, 1)
    assert document["findings"][1]["mend"] == "empty it"
    monkeypatch.setattr("gigagan_core.doctor.checks.checks", lambda request: quick[:1])
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_what_is_not_given_is_as_the_sites_settings_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Request] = []

    def noted(request: Request) -> list[tuple[str, finding.Check]]:
        asked.append(request)
        return []

    monkeypatch.setattr("gigagan_core.doctor.checks.checks", noted)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:8265")
    site = {
        "kind": "kuberay",
        "ray_job": {"address": "http://ray-head:8265"},
        "kuberay": {"image": "i:1", "namespace": "training", "context": "blue", "api_server": "http://k:1"},
    }
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    assert (asked[0].backend, asked[0].namespace) == ("local", "default")
    assert asked[0].ray_address == "http://elsewhere:8265"
    file = tmp_path / "backend.json"
    file.write_text(json.dumps(site))
    monkeypatch.setenv("GIGAGAN_BACKEND", str(file))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    assert (asked[1].backend, asked[1].namespace, asked[1].kube_context) == ("kuberay", "training", "blue")
    assert (asked[1].ray_address, asked[1].kube_api) == ("http://ray-head:8265", "http://k:1")
    given = ["--backend", "ray-job", "--namespace", "other", "--ray-address", "http://mine:8265"]
    assert CliRunner().invoke(app, ["doctor", *given]).exit_code == 0
    assert (asked[2].backend, asked[2].namespace) == ("ray-job", "other")
    assert asked[2].ray_address == "http://mine:8265"
    file.write_text("{")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "GIGAGAN_BACKEND" in done.stderr


def test_the_manual_names_every_option_of_the_command() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "rerun.md").read_text()
    manual = text.partition("\ngigagan doctor ")[2].partition("```")[0]
    options = set(inspect.signature(doctor_command.doctor).parameters)
    named = {name.replace("-", "_") for name in re.findall(r"--([a-z-]+)", manual)}
    assert named == {"json" if name == "as_json" else name for name in options}


def test_an_unknown_preset_is_one_sentence() -> None:
    done = CliRunner().invoke(app, ["doctor", "--preset", "dmeo"])
    assert done.exit_code == 1
    assert "did you mean 'demo'?" in done.stderr


def test_the_checks_import_nothing_heavy_before_they_run() -> None:
    names = [name for name, _ in checks(Request())]
    assert len(names) == len(set(names))
    assert {
        "python",
        "packages",
        "gpus",
        "nccl",
        "store",
        "disk",
        "weights",
        "prefect",
        "mlflow",
        "ray",
    } < set(names)
