"""The servers of this machine: Prefect's and MLflow's, on exactly the data under the home folder.

They listen on loopback only. A port that is taken is replaced by the next free one. A server dies with
the process that started it, however that one ends, so that no orphan keeps a port or a database.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gigagan_core import console, environment
from gigagan_core.errors import GigaganError
from gigagan_core.stages.ray_session import any_port, free_port
from gigagan_core.text import without_password
from gigagan_core.tracking.connection import sqlite_path
from gigagan_core.tracking.process import is_alive, owner

HOST = "127.0.0.1"
PREFECT_PORT, MLFLOW_PORT = 4200, 5000
# The first start migrates a database: 10 to 17 s measured on 2 idle cores, more on busy ones.
START_SECONDS = 120.0
# A flow run outlives a minute without a database behind Prefect (its server then answers 500) or without a store:
# twenty tries of botocore are about 150 s, ten 55. A person's own commands fail sooner.
_PATIENCE = {
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,504",
    "AWS_RETRY_MODE": "standard",
    "AWS_MAX_ATTEMPTS": "20",
}
STOP_SECONDS = 10.0
# Asks the kernel for SIGTERM when the starting process ends, kill -9 included (prctl(2),
# PR_SET_PDEATHSIG), and becomes the server.
_DIE_WITH_PARENT = "import ctypes,os,sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass
class Server:
    """A running server process. url: for a browser. health: answers 200 when it serves."""

    name: str
    url: str
    health: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until_healthy(self, seconds: float = START_SECONDS) -> None:
        """Return when it serves; raises GigaganError when it ends first or takes longer."""
        deadline = time.monotonic() + seconds
        while not answers(self.health):
            if self.process.poll() is not None:
                raise GigaganError(
                    f"{self.name} ended with code {self.process.returncode} before it served; see {self.log}"
                )
            if time.monotonic() > deadline:
                raise GigaganError(f"{self.name} did not answer within {seconds:.0f} s; see {self.log}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End it and what it started; returns when it is gone."""
        for stop, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)


def answers(url: str, timeout: float = 2.0) -> bool:
    """Whether `url` answers 200; proxies of the environment are not asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            return response.status == 200
    except (OSError, ValueError):
        return False


def start_prefect(port: int | None = None, ui: bool = True) -> Server:
    """Start Prefect's server; port: exactly this one, else 4200 or the next free one."""
    port = port or free_port(PREFECT_PORT)
    url = f"http://{HOST}:{port}"
    command, settings = prefect_command(port)
    settings |= {"PREFECT_HOME": str(environment.prefect_home()), "PREFECT_UI_ENABLED": "1" if ui else "0"}
    return _start("Prefect server", command, settings, url, f"{url}/api/health", "prefect-server")


def prefect_command(port: int) -> tuple[list[str], dict[str, str]]:
    """Prefect's server on this port, and the environment that it needs for it."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    # Else the page asks the API at port 4200, whichever port it is served from.
    return command, {"PREFECT_UI_API_URL": f"http://{HOST}:{port}/api"}


def start_mlflow(port: int | None = None) -> Server:
    """Start MLflow's server on the local database; port: exactly this one, else 5000 or the next free one."""
    port = port or free_port(MLFLOW_PORT)
    url = f"http://{HOST}:{port}"
    command, settings = mlflow_command(port)
    command += [
        *("--backend-store-uri", environment.mlflow_uri()),
        # Runs are written to the database directly, too. With proxied artifacts (the default) they would
        # get addresses that only work through a server.
        *("--no-serve-artifacts", "--default-artifact-root", environment.mlflow_artifacts().as_uri()),
    ]
    return _start("MLflow server", command, settings, url, f"{url}/health", "mlflow-server")


def mlflow_command(port: int) -> tuple[list[str], dict[str, str]]:
    """MLflow's server on this port, without its stores, and the environment that it needs."""
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST),
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    # Its job runner is for evaluations of language models: seven processes, 1.7 GB.
    return command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def start_worker(api_url: str, folder: Path, pool: str = "local") -> Server:
    """Start a Prefect process worker for `pool` that runs flows from the checkout `folder`."""
    # Runs queue up rather than share two cores.
    command = worker_command(pool, f"{pool}-{os.getpid()}", limit=1)
    settings = worker_environment(api_url, folder)
    return _start("Prefect worker", command, settings, api_url, f"{api_url}/health", "prefect-worker")


def worker_command(pool: str, name: str, limit: int) -> list[str]:
    """A Prefect process worker of `pool`, which it makes where it is missing; limit: flow runs at a time."""
    command = (sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process")
    return [*command, "--name", name, "--limit", str(limit)]


def deploy(settings: Mapping[str, str], root: Path, pool: str = "local") -> None:
    """Create the work pool and the deployments of `root`/prefect.yaml that are for it; both may exist.

    settings: `worker_environment`, which says where. Raises GigaganError with the reason of a refusal.
    """
    import yaml

    declared = yaml.safe_load((root / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    names = [each["name"] for each in declared if each["work_pool"]["name"] == pool]
    pool_exists = answers(f"{settings['PREFECT_API_URL']}/work_pools/{pool}")
    for arguments in (
        *(() if pool_exists else (("work-pool", "create", pool, "--type", "process"),)),
        ("deploy", *(argument for name in names for argument in ("--name", name))),
    ):
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        variables = {**os.environ, **settings}
        done = subprocess.run(
            command, cwd=root, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode != 0:
            lines = [line.strip(" │╭╰─╮╯") for line in (done.stdout + done.stderr).splitlines()]
            reason = " ".join(line for line in lines if line)[-600:]
            raise GigaganError(f"`prefect {arguments[0]}` failed: {reason}")


def worker_environment(api_url: str, folder: Path) -> dict[str, str]:
    """What a flow run needs to find the same home, records and checkout as the process that asked for it."""
    return {
        "GIGAGAN_HOME": str(environment.home()),
        "GIGAGAN_ROOT": str(folder),
        "PREFECT_HOME": str(environment.prefect_home()),
        "PREFECT_API_URL": api_url,
        "MLFLOW_TRACKING_URI": environment.mlflow_uri(),
        "NO_PROXY": no_proxy(),
        **{name: os.environ.get(name, value) for name, value in _PATIENCE.items()},
    }


def no_proxy() -> str:
    """`NO_PROXY` with loopback in it: a company's proxy cannot reach servers of this machine."""
    known = os.environ.get("NO_PROXY", os.environ.get("no_proxy", ""))
    return ",".join(dict.fromkeys([*filter(None, known.split(",")), HOST, "localhost"]))


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """`command`, told to end by the kernel when the thread that starts it does."""
    return [sys.executable, "-c", _DIE_WITH_PARENT, *command]


def _start(
    name: str, command: Sequence[str], settings: Mapping[str, str], url: str, health: str, log_name: str
) -> Server:
    environment.set_defaults()
    folder = environment.home() / "logs"
    log = folder / f"{log_name}.log"
    inherited = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            process = subprocess.Popen(
                dying_with_parent(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited, **settings},
                start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on, in order
            )
    except OSError as error:
        raise GigaganError(
            f"{name} cannot be started: {error}; check the disk and the rights of {folder}"
        ) from None
    return Server(name, url, health, process, log)


# ---- what is running: a record that the next command finds -------------------------------------------


@dataclass(frozen=True)
class Running:
    """The servers that a `gigagan ui` of this home has started. process: its owner's name.

    records: digest of the address of the database that its MLflow serves; "" where that is a server elsewhere.
    """

    process: str
    prefect: str
    mlflow: str
    records: str = ""


def _record_path() -> Path:
    return environment.home() / "servers.json"


def running() -> Running | None:
    """The servers of a `gigagan ui` that lives and serves; None for none, or a record left by a dead one."""
    try:
        found = Running(**json.loads(_record_path().read_text()))
    except (OSError, ValueError, TypeError):
        return None
    # Another machine's, in a home that both see, is behind another loopback.
    if not is_alive(found.process) or not answers(f"{found.prefect}/api/health"):
        return None
    return found


def serving_records() -> str | None:
    """Address of the MLflow that `running` has started on this process's records, or None."""
    found, database = running(), _database()
    return found.mlflow if found and database and found.records == database else None


def _database() -> str:
    """Digest of the address of the database that records go to, a file by its whole path; "" where it is a server."""
    uri = environment.mlflow_uri()
    if uri.startswith(("http://", "https://")):
        return ""
    path = sqlite_path(uri)
    return hashlib.sha256((os.path.abspath(path) if path else uri).encode()).hexdigest()


@contextlib.contextmanager
def recorded(prefect: str, mlflow: str) -> Iterator[Running]:
    """Inside, `running` of every process with this home finds these servers."""
    record = Running(owner(), prefect, without_password(mlflow), _database())
    path = _record_path()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(vars(record)) + "\n")
    os.replace(temporary, path)
    try:
        yield record
    finally:
        path.unlink(missing_ok=True)


# ---- where a flow run is reported to ----------------------------------------------------------------


@dataclass
class PrefectApi:
    """The API that a flow run of this process reports to. url: with ``/api``. server: where it is ours."""

    url: str
    server: Server | None = None

    def wait(self) -> None:
        """Return when it answers; raises GigaganError where it does not."""
        if self.server is not None:
            self.server.wait_until_healthy()


@contextlib.contextmanager
def prefect_api() -> Iterator[PrefectApi]:
    """The API for flow runs, in `PREFECT_API_URL` for the block: enter before prefect is imported.

    It is the one that `PREFECT_API_URL` names, or a running `gigagan ui`, or a temporary server that
    ends with the block; that one starts while the block imports what it needs, so call `wait` after.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given:
        _check_given(given)
        yield PrefectApi(given)
        return
    found = running()
    server = None if found else start_prefect(any_port(), ui=False)
    api = PrefectApi(f"{found.prefect if found else server.url}/api", server)
    if found:
        console.note(f"watch it at {found.prefect}")
    os.environ["PREFECT_API_URL"] = api.url
    # Links into Prefect's pages are followed after the temporary server is gone, with `gigagan ui`.
    os.environ["PREFECT_UI_URL"] = found.prefect if found else f"http://{HOST}:{PREFECT_PORT}"
    os.environ["NO_PROXY"] = no_proxy()
    try:
        yield api
    finally:
        del os.environ["PREFECT_API_URL"], os.environ["PREFECT_UI_URL"]
        if server is not None:
            server.stop()


def _check_given(api_url: str) -> None:
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=10):
            return
    except urllib.error.HTTPError:
        return  # it answers; whether we may use it is for Prefect's own client to say
    except (OSError, ValueError) as error:
        raise GigaganError(
            f"Prefect server {api_url} (PREFECT_API_URL) does not answer: {error}; start it, or unset "
            "PREFECT_API_URL to use a temporary one"
        ) from None
