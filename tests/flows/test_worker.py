"""The README's path: `gigagan ui --worker`, `gigagan env`, `prefect deployment run`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MAIN = "from gigagan_core.cli import main; main()"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_deployment_runs_on_the_local_worker_from_any_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    variables = {**os.environ, "GIGAGAN_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    command = [sys.executable, "-c", MAIN]
    ui = subprocess.Popen(
        [*command, "ui", "--worker", "--json"], cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True
    )
    try:
        document = ""
        while not document.rstrip().endswith("}"):
            line = ui.stdout.readline()
            assert line, "gigagan ui ended"
            document += line
        assert json.loads(document)["started"] is True
        # A shell that stands in the checkout asks for the variables, and then goes elsewhere.
        shell = subprocess.run(
            [*command, "env"], cwd=ROOT, env=variables, capture_output=True, text=True, check=True
        )
        script = (
            f"{shell.stdout}\ncd {tmp_path}\n"
            f"{sys.executable} -m prefect deployment run ingest/ingest "
            "--param preset=tiny --param split=heldout --watch"
        )
        run = subprocess.run(["sh", "-c", script], env=variables, capture_output=True, text=True, timeout=400)
        assert run.returncode == 0, run.stdout + (home / "logs" / "prefect-worker.log").read_text()
        listed = subprocess.run(
            [*command, "store", "ls", "--json"], env=variables, capture_output=True, text=True
        )
        assert [artifact["label"] for artifact in json.loads(listed.stdout)] == ["ingest heldout"]
    finally:
        ui.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 60
        while ui.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        ui.kill()
        ui.stdout.close()
    assert ui.returncode == 0
