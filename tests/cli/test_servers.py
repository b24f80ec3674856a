"""Ports, records and lifetimes of the servers that this package starts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gigagan_core import servers
from gigagan_core.errors import GigaganError
from gigagan_core.tracking.process import owner, start_time


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path))
    return tmp_path


def listen() -> socket.socket:
    listening = socket.socket()
    listening.bind((servers.HOST, 0))
    listening.listen()
    return listening


def sleeper(name: str = "sleeper") -> servers.Server:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    return servers._start(name, command, {}, "http://127.0.0.1:9", "http://127.0.0.1:9/health", name)


def test_a_taken_port_is_replaced_by_the_next_free_one() -> None:
    with listen() as listening:
        taken = listening.getsockname()[1]
        assert taken < servers.free_port(taken) <= taken + 50


CHOOSES = """
import sys, time
from gigagan_core import servers
print(servers.free_port(int(sys.argv[1])), flush=True)
time.sleep(60)
"""


def test_two_processes_that_choose_before_either_listens_get_two_ports() -> None:
    with listen() as listening:
        wanted = listening.getsockname()[1]
    first = subprocess.Popen([sys.executable, "-c", CHOOSES, str(wanted)], stdout=subprocess.PIPE, text=True)
    try:
        chosen = int(first.stdout.readline())
        here = servers.free_port(chosen)
        assert here > chosen
        assert servers.free_port(here) == here, "this process may choose it again"
    finally:
        first.kill()
        first.communicate()
    assert servers.free_port(chosen) == chosen, "a process that has ended keeps nothing"


def test_a_server_that_ends_at_once_is_one_sentence_with_its_log(home: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('port in use')"]
    server = servers._start("MLflow server", command, {}, "http://x", "http://127.0.0.1:9/health", "mlflow")
    with pytest.raises(GigaganError, match=r"MLflow server ended with code 1 .*mlflow\.log"):
        server.wait_until_healthy(20)
    assert "port in use" in (home / "logs" / "mlflow.log").read_text()


def test_a_server_that_never_answers_is_given_up() -> None:
    server = sleeper()
    try:
        with pytest.raises(GigaganError, match="did not answer within 0 s"):
            server.wait_until_healthy(0.3)
    finally:
        server.stop()
    assert server.process.poll() is not None


def test_a_server_dies_with_the_process_that_started_it_even_by_kill_9(home: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    )
    child = int(parent.stdout.readline())
    assert start_time(child) is not None
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while start_time(child) is not None:
        assert time.monotonic() < deadline, "the server outlived its parent"
        time.sleep(0.05)


PARENT = """
    import sys, time
    from gigagan_core import servers
    ready = "import time; print('ready', flush=True); time.sleep(60)"
    server = servers._start("s", [sys.executable, "-c", ready], {}, "", "", "s")
    while "ready" not in server.log.read_text():
        time.sleep(0.05)
    print(server.process.pid, flush=True)
    time.sleep(60)
"""


def test_a_record_left_by_a_dead_process_is_no_running_server(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "answers", lambda url: True)
    with servers.recorded("http://127.0.0.1:1", "http://127.0.0.1:2") as record:
        assert servers.running() == record
    assert servers.running() is None
    host, pid, _ = owner().split(":")
    stale = {"process": f"{host}:{pid}:1", "prefect": "http://127.0.0.1:1", "mlflow": "http://127.0.0.1:2"}
    (home / "servers.json").write_text(json.dumps(stale))
    assert servers.running() is None
    (home / "servers.json").write_text("{")
    assert servers.running() is None


def test_the_server_of_these_records_is_known_and_no_other(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "answers", lambda url: True)
    assert servers.serving_records() is None
    with servers.recorded("http://127.0.0.1:1", "http://127.0.0.1:2"):
        assert servers.serving_records() == "http://127.0.0.1:2"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/mlflow.db")
        assert servers.serving_records() is None
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{os.path.relpath(home / 'mlflow.db')}")
        assert servers.serving_records() == "http://127.0.0.1:2"


def test_a_server_elsewhere_is_asked_at_its_own_address_and_its_password_is_not_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "answers", lambda url: True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ana:secret@mlflow.example/base")
    with servers.recorded("http://127.0.0.1:1", "https://ana:secret@mlflow.example/base"):
        assert servers.serving_records() is None
        assert servers.running().mlflow == "https://mlflow.example/base"
        assert "secret" not in (home / "servers.json").read_text()


def test_servers_of_another_machine_are_not_taken_for_this_ones(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "answers", lambda url: True)
    elsewhere = {"process": "other/1:7:1", "prefect": "http://127.0.0.1:1", "mlflow": "http://127.0.0.1:2"}
    (home / "servers.json").write_text(json.dumps(elsewhere))
    assert servers.running() is None


def test_a_server_that_is_named_and_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen() as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    with pytest.raises(GigaganError, match=r"PREFECT_API_URL\) does not answer"), servers.prefect_api():
        pass


def test_loopback_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet,localhost")
    assert servers.no_proxy() == "intranet,localhost,127.0.0.1"
