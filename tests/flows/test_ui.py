"""`gigagan ui` and `gigagan env` while it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from gigagan_core import servers

MAIN = "from gigagan_core.cli import main; main()"


def test_taken_ports_are_replaced_and_said(ui: Any, home: Path) -> None:
    said = (home / "ui.log").read_text()
    for usual, url in ((servers.PREFECT_PORT, ui.prefect), (servers.MLFLOW_PORT, ui.mlflow)):
        assert not url.endswith(f":{usual}")
        assert f"port {usual} is taken" in said
        assert url in said
        assert url.startswith("http://127.0.0.1:")


def test_both_pages_serve_this_homes_records(ui: Any, home: Path) -> None:
    with urllib.request.urlopen(f"{ui.prefect}/ui-settings") as response:
        # The page asks the API of its own server, not of the usual port.
        assert json.load(response)["api_url"] == f"{ui.prefect}/api"
    with urllib.request.urlopen(f"{ui.mlflow}/") as response:
        assert b"<html" in response.read()
    assert (home / "mlflow.db").is_file()
    assert (home / "prefect" / "prefect.db").is_file()


def test_a_second_ui_names_the_first_and_starts_nothing(ui: Any, home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "ui", "--json"], env=os.environ.copy(), capture_output=True, text=True
    )
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"prefect": ui.prefect, "mlflow": ui.mlflow, "started": False}


def test_env_names_the_running_server(ui: Any, home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "env"], env=os.environ.copy(), capture_output=True, text=True
    )
    assert f"export PREFECT_API_URL={ui.prefect}/api" in done.stdout.splitlines()


def test_a_pipeline_reports_to_the_running_server_and_starts_none(
    ui: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with servers.prefect_api() as api:
        assert (api.url, api.server) == (f"{ui.prefect}/api", None)
        assert os.environ["PREFECT_API_URL"] == api.url
    assert "PREFECT_API_URL" not in os.environ
