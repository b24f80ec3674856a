"""`gigagan stack` as a person uses it: what runs, where it listens, what a shell is told, and who gets in."""

from __future__ import annotations

import ipaddress
import json
import stat
import sys
import urllib.error
from pathlib import Path

import psutil
import pytest

from gigagan_core.stack.services import ask

from .running import Platform
from .test_folder import secret_values

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

SERVICES = ["postgres", "s3", "prefect", "mlflow", "ray-head", "ray-worker-1", "ray-worker-2", "worker"]


def test_every_service_serves_and_a_second_up_attaches(whole: Platform) -> None:
    before = json.loads(whole.gigagan("stack", "status", "--json").stdout)
    assert list(before["services"]) == SERVICES
    assert {each["state"] for each in before["services"].values()} == {"healthy"}
    again = whole.gigagan("stack", "up", "--json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found.pop("started") is False
    assert found["services"].keys() == before["services"].keys()
    pids = [{name: each["pid"] for name, each in state["services"].items()} for state in (before, found)]
    assert pids[0] == pids[1]


def test_everything_listens_on_loopback_alone(whole: Platform) -> None:
    ours = {process.pid for process in whole.processes()}
    listening = [
        each for each in psutil.net_connections("inet") if each.status == "LISTEN" and each.pid in ours
    ]
    assert len({each.pid for each in listening}) >= len(SERVICES) - 1, "PostgreSQL's and the others' are seen"
    open_to_all = [
        (each.laddr, " ".join(psutil.Process(each.pid).cmdline())[:80])
        for each in listening
        if not is_loopback(each.laddr.ip)
    ]
    assert open_to_all == []


def is_loopback(address: str) -> bool:
    """Also of an IPv4 address as an IPv6 socket shows it."""
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def test_no_secret_is_in_a_log_a_command_line_or_what_a_shell_is_told(whole: Platform) -> None:
    secrets = secret_values(whole.folder)
    told = whole.gigagan("stack", "env").stdout
    assert f"export RAY_ADDRESS={whole.exports['RAY_ADDRESS']}" in told
    shown = {"gigagan stack env": told, "gigagan stack status": whole.gigagan("stack", "status").stderr}
    shown |= {path.name: path.read_text(errors="replace") for path in whole.folder.logs.iterdir()}
    shown |= {f"Ray's {path.name}": path.read_text(errors="replace") for path in ray_logs(whole)}
    shown |= {str(process.pid): "\0".join(process.cmdline()) for process in whole.processes()}
    assert len(shown) > 30
    assert [name for name, text in shown.items() for secret in secrets if secret in text] == []
    for path in whole.folder.secrets.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def ray_logs(platform: Platform) -> list[Path]:
    return [path for path in platform.folder.ray.glob("session_*/logs/**/*") if path.is_file()]


def test_ray_lets_nobody_in_without_the_token(whole: Platform) -> None:
    jobs = f"{whole.exports['RAY_API_SERVER_ADDRESS']}/api/jobs/"
    for headers, code in ({}, 401), ({"Authorization": "Bearer guessed"}, 403):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(jobs, headers=headers)
        assert refused.value.code == code
    # What ran before on this stack is listed, if anything did.
    assert isinstance(ask(jobs, headers={"Authorization": f"Bearer {whole.folder.secret('ray')}"}), list)


def test_postgresql_wants_the_password_and_is_not_root(whole: Platform) -> None:
    import psycopg2

    port = whole.folder.read().ports["postgres"]
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(host="127.0.0.1", port=port, user="gigagan", password="guessed", dbname="prefect")
    assert whole.service("postgres").uids().effective != 0


def test_logs_are_shown_by_service(whole: Platform) -> None:
    shown = whole.gigagan("stack", "logs", "postgres", "--lines", "200")
    assert "ready to accept connections" in shown.stdout
    unknown = whole.gigagan("stack", "logs", "postgras")
    assert unknown.returncode == 1
    assert "there are: mlflow, postgres" in unknown.stderr


def test_a_program_of_the_shell_finds_the_store_and_the_cluster(whole: Platform) -> None:
    done = whole.shell(
        sys.executable, "-c", "from gigagan_core.cli import main; main()", "store", "ls", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), list)
