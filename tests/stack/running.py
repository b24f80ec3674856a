"""A running stack as the tests see it: through the addresses and commands that a person has, and its processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from gigagan_core.stack import processes
from gigagan_core.stack.folder import StackFolder
from gigagan_core.stack.services import BUCKET, ask, exports

ROOT = Path(__file__).resolve().parents[2]
MAIN = "from gigagan_core.cli import main; main()"
# A busy machine of two cores: what takes 30 s alone may take several times that.
PATIENCE_SECONDS = 300.0
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T], seconds: float = PATIENCE_SECONDS, every: float = 0.5) -> T:
    """What `look` gives as soon as that is true; a failure of the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(every)
    return found


@dataclass
class Platform:
    """A stack under `home`."""

    home: Path
    _read: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> StackFolder:
        return StackFolder(self.home / "stack")

    @property
    def exports(self) -> dict[str, str]:
        """What a shell of somebody who uses the stack has."""
        state = self.folder.running()
        assert state is not None, "the stack has ended"
        with_home = {"GIGAGAN_HOME": str(self.home)}
        return {**exports(self.folder, state.ports, ROOT), **with_home}

    def gigagan(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """A `gigagan` command in this home, without the stack's environment."""
        return self._run([sys.executable, "-c", MAIN, *arguments], {"GIGAGAN_HOME": str(self.home)}, timeout)

    def shell(self, *command: str, timeout: float = 540) -> subprocess.CompletedProcess[str]:
        """A command in a shell that uses the stack."""
        return self._run(list(command), self.exports, timeout)

    def _run(
        self, command: Sequence[str], variables: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    # ---- Prefect ------------------------------------------------------------------------------------

    def prefect(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """An answer of Prefect's API; the same moments of absence are waited out as a page would."""
        url = f"{self.exports['PREFECT_API_URL']}/{path}"

        def tried() -> list[Any]:
            try:
                return [ask(url, body=body, method=method)]
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise
                return []
            except OSError:
                return []

        return wait_for(f"Prefect's answer to {path}", tried)[0]

    def start(self, deployment: str, variables: Mapping[str, str] | None = None, **parameters: Any) -> str:
        """Ask for a run of FLOW/DEPLOYMENT; its id. variables: of the flow's process."""
        found = self.prefect(f"deployments/name/{deployment}")
        body = {
            "parameters": parameters,
            "state": {"type": "SCHEDULED"},
            "job_variables": {"env": dict(variables)} if variables else {},
        }
        return self.prefect(f"deployments/{found['id']}/create_flow_run", body)["id"]

    def set_state(self, run: str, kind: str) -> None:
        """Ask for another state, as the buttons of the page do."""
        state = {"state": {"type": kind, "name": kind.title()}, "force": False}
        self.prefect(f"flow_runs/{run}/set_state", state)

    def state(self, run: str) -> str:
        """The type of a flow run's state."""
        return self.prefect(f"flow_runs/{run}")["state_type"]

    def wait(self, run: str, *states: str, seconds: float = PATIENCE_SECONDS) -> str:
        """Until the run is in one of these states (default: any final one); gives it."""
        wanted = set(states) or ENDED

        def look() -> str | None:
            state = self.state(run)
            assert state in wanted or state not in ENDED, f"{state}\n{self.log_of(run)}"
            return state if state in wanted else None

        return wait_for(f"flow run in {'/'.join(sorted(wanted))}", look, seconds)

    def log_of(self, run: str) -> str:
        """Everything that a flow run has said."""
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return "\n".join(line["message"] for line in self.prefect("logs/filter", body))

    def flow_runs(self, *states: str) -> list[dict[str, Any]]:
        """Flow runs in any of these states; without states all of them."""
        wanted = {"flow_runs": {"state": {"type": {"any_": list(states)}}}} if states else {}
        return self.prefect("flow_runs/filter", wanted)

    def task_runs(self, run: str) -> list[dict[str, Any]]:
        """The tasks of a flow run."""
        return self.prefect("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})

    def process_of(self, run: str) -> psutil.Process:
        """The process that executes a flow run."""
        wanted = f"PREFECT__FLOW_RUN_ID={run}".encode()

        def look() -> list[psutil.Process]:
            return [each for each in self.processes() if wanted in _environment(each)]

        # What it has started, such as the site of the drawings, has the same environment.
        return min(wait_for("the flow run's process", look), key=lambda process: process.create_time())

    # ---- MLflow, S3 ---------------------------------------------------------------------------------

    def mlflow_runs(self) -> list[dict[str, Any]]:
        """All runs, each with `status`, `tags` and `metrics` as plain values."""
        address = self.exports["MLFLOW_TRACKING_URI"]

        def tried() -> list[Any]:
            with contextlib.suppress(OSError):
                found = ask(f"{address}/api/2.0/mlflow/experiments/search", {"max_results": 100})
                ids = [each["experiment_id"] for each in found["experiments"]]
                query = {"experiment_ids": ids, "max_results": 1000}
                return [ask(f"{address}/api/2.0/mlflow/runs/search", query).get("runs", [])]
            return []

        return [
            {
                "id": run["info"]["run_id"],
                "name": run["info"]["run_name"],
                "status": run["info"]["status"],
                "tags": {each["key"]: each["value"] for each in run["data"].get("tags", [])},
                "metrics": {each["key"]: each["value"] for each in run["data"].get("metrics", [])},
            }
            for run in wait_for("MLflow's answer", tried)[0]
        ]

    def _s3(self) -> Any:
        import boto3

        key, secret = re.findall(" = (.*)", self.folder.secret("aws"))
        return boto3.client(
            "s3",
            endpoint_url=self.exports["AWS_ENDPOINT_URL"],
            region_name=self.exports["AWS_DEFAULT_REGION"],
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    def keys(self, prefix: str) -> list[str]:
        """Names of objects in the store's bucket."""
        pages = self._s3().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"store/{prefix}")
        return [each["Key"] for page in pages for each in page.get("Contents", ())]

    def manifests(self, stage: str) -> dict[str, dict[str, Any]]:
        """The manifests of a stage, by the folder's name."""
        s3 = self._s3()
        names = [
            key for key in self.keys(f"{stage}/") if key.count("/") == 3 and key.endswith("/manifest.json")
        ]
        return {
            name.split("/")[2]: json.load(s3.get_object(Bucket=BUCKET, Key=name)["Body"]) for name in names
        }

    # ---- processes ----------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Every process of the stack."""
        state = self.folder.running()
        assert state is not None, "the stack has ended"
        supervisor = psutil.Process(int(state.process.split(":")[1]))
        return [supervisor, *supervisor.children(recursive=True)]

    def service(self, name: str) -> psutil.Process:
        """The process of a service."""
        pid = self.folder.read().services[name].pid
        assert pid is not None, name
        return psutil.Process(pid)

    def part(self, service: str, program: str) -> psutil.Process:
        """The process of a service's family whose command line holds `program`."""
        family = processes.family(self.service(service).pid)
        return next(each for each in family if program in " ".join(each.cmdline()))

    def restarts(self, name: str) -> int:
        return self.folder.read().services[name].restarts

    def wait_until_whole(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Until every service serves."""

        def look() -> bool:
            state = self.folder.running()
            assert state is not None, "the stack has ended"
            failed = {name: each.reason for name, each in state.services.items() if each.state == "failed"}
            assert not failed, failed
            return state.healthy

        wait_for("every service serving", look, seconds)


def _environment(process: psutil.Process) -> list[bytes]:
    try:
        return Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
