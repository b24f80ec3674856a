"""Jobs on a real Ray cluster of this machine, which asks for its token; submitters are processes that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gigagan_core.stages.ray_session import any_port
from gigagan_core.tracking.process import start_time

pytestmark = pytest.mark.slow

HERE, ROOT = Path(__file__).parent, Path(__file__).resolve().parents[2]

SUBMIT = """
import json, sys
from tiny_stage import TinySettings, run
from gigagan_core.backends.base import open_backend
from gigagan_core.config.backend import backend_settings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import RunContext
from gigagan_core.tracking.process import sigterm_raises

store, address, asker, python_path, settings = sys.argv[1:]
where = backend_settings("ray-job", [
    f"ray_job.address={address}",
    f"ray_job.python={sys.executable}",
    f"ray_job.env={json.dumps({'PYTHONPATH': python_path})}",
    "ray_job.patience_s=30",
])
with sigterm_raises(), RunContext.open(store, backend=open_backend(where, asker)) as context:
    try:
        artifact = context.run(run, TinySettings(**json.loads(settings)), {})
    except GigaganError as error:
        print(json.dumps({"error": str(error)}))
    else:
        print(json.dumps({"uri": artifact.uri, "job": artifact.manifest["origin"]["job"]}))
"""


@dataclass
class Cluster:
    """A running Ray. environment: what its clients need."""

    address: str
    environment: dict[str, str]
    token: Path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Ray's sockets lie in its folder, and their paths are short.
    folder = Path(tempfile.mkdtemp(prefix="gg-ray-", dir="/tmp"))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    port = any_port()
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PYTHONPATH": f"{ROOT}:{HERE}",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    options = [
        *("--head", "--block", "--port=0", "--num-cpus=2", "--disable-usage-stats"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}"),
        *(f"--dashboard-agent-listen-port={any_port()}", f"--ray-client-server-port={any_port()}"),
        *(f"--temp-dir={folder / 'ray'}", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"),
    ]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: _serves(port), 120, (folder / "log").read_text)
        yield Cluster(f"http://127.0.0.1:{port}", environment, token)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _serves(port: int) -> bool:
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=2).close()
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # it serves, and asks for the token
    except OSError:
        return False
    return True


def wait_until(holds: Callable[[], Any], seconds: float, why: Callable[[], str] = lambda: "") -> Any:
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, why()
        time.sleep(0.2)
    return found


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a submitter; its answer is a line of JSON."""
    started: list[subprocess.Popen[str]] = []

    def start(asker: str = "pf-1", address: str | None = None, **settings: Any) -> subprocess.Popen[str]:
        environment = {**cluster.environment, **settings.pop("environment", {})}
        place = [str(tmp_path / "store"), address or cluster.address, asker, f"{ROOT}:{HERE}"]
        process = subprocess.Popen(
            [sys.executable, "-c", SUBMIT, *place, json.dumps(settings)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def answer(process: subprocess.Popen[str], seconds: float = 120) -> tuple[dict[str, str], str]:
    out, said = process.communicate(timeout=seconds)
    assert out, said
    return json.loads(out.splitlines()[-1]), said


def work_of(tmp_path: Path) -> Path:
    """The work folder of the one stage that runs, once its process has begun."""
    return wait_until(lambda: list((tmp_path / "store" / "_work").glob("*/pid")), 90)[0].parent


def test_a_stage_is_a_job_and_all_lines_are_in_one_log(submit: Any, tmp_path: Path) -> None:
    # This variable would send the job elsewhere.
    process = submit(ray_task=True, environment={"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"})
    made, said = answer(process)
    assert "error" not in made, said
    assert made["job"].startswith("pf-1-tiny-stage-")
    assert (Path(made["uri"]) / "word.txt").read_text() == "well"
    log = (Path(made["uri"]) / "stage.log").read_text()
    for text in (said, log):
        assert "the word is well" in text
        assert "a worker says well" in text
    # The store answers a second time, and no job is needed.
    again, said = answer(submit(ray_task=True))
    assert again == made
    assert "submitted" not in said


def test_a_failure_is_one_sentence(submit: Any) -> None:
    failed, _ = answer(submit(end="badly"))
    assert "the word 'well' is bad; choose another (job pf-1-tiny-stage-" in failed["error"]
    crashed, _ = answer(submit(asker="pf-2", end="crash"))
    assert "\n" not in crashed["error"]
    assert "exit code 1" in crashed["error"]
    assert "RuntimeError: a defect of ours" in crashed["error"]


def test_a_killed_submitter_leaves_its_job_and_the_next_one_attaches(submit: Any, tmp_path: Path) -> None:
    killed = submit(seconds=90)
    work = work_of(tmp_path)
    killed.kill()
    killed.communicate()
    first = int((work / "pid").read_text())
    again = submit(seconds=90)
    # Attached: what the job said before is heard again.
    heard = ""
    while "the word is well" not in heard:
        line = again.stderr.readline()
        assert line, heard
        heard += line
    assert "attached to pf-1-tiny-stage-" in heard
    (work / "go").touch()
    made, _ = answer(again)
    assert "error" not in made
    manifest = json.loads((Path(made["uri"]) / "manifest.json").read_text())
    assert manifest["attempt"] == 1
    assert start_time(first) is None


def test_giving_up_stops_the_job(submit: Any, tmp_path: Path) -> None:
    process = submit(seconds=90)
    work = work_of(tmp_path)
    job = int((work / "pid").read_text())
    assert start_time(job) is not None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "stopped pf-1-tiny-stage-" in said
    wait_until(lambda: start_time(job) is None, 20)
    # Cancelled is not done: the same call starts another job.
    (work / "go").touch()
    made, said = answer(submit(seconds=90))
    assert made.get("job", "").endswith("-2"), (made, said)


def test_a_wrong_token_is_one_sentence(submit: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(secrets.token_hex(32))
    failed, _ = answer(submit(environment={"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}))
    assert "RAY_AUTH_TOKEN_PATH" in failed["error"]
