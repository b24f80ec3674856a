"""What belongs to a stack, and how each service is started and asked whether it serves."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from gigagan_core import environment, servers
from gigagan_core.servers import HOST
from gigagan_core.stack.folder import StackFolder
from gigagan_core.stack.postgres import Postgres
from gigagan_core.stack.processes import MARK
from gigagan_core.stack.programs import require_s3_server
from gigagan_core.stages.ray_session import any_port

# Ray replaces "127.0.0.1" by the machine's own address, so that other machines can join, and then listens on all of
# them. This is `ray start` without that; `_RAY_LOCAL` says the same to whoever connects (Ray's own word for it, which
# forbids to start nodes).
_RAY = (
    "from ray._private import services; services.get_node_ip_address = lambda *_: '127.0.0.1'; "
    "from ray.scripts.scripts import main; main()"
)
_RAY_LOCAL = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
POOL, WORKER_NAME, FLOW_RUNS = "local", "stack", 2
RAY_WORKERS = 2
# Ray's object store carries small results here; its default takes 30% of the memory, once for each node.
_RAY_STORE_BYTES = 128 * 2**20
BUCKET, MLFLOW_BUCKET, REGION = "gigagan", "mlflow", "us-east-1"
# They would lead a service, or a client with the environment of `exports`, to somewhere else.
NOT_INHERITED = (
    *(
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL_S3",
    ),
    *("MLFLOW_RUN_ID", "MLFLOW_REGISTRY_URI", "PREFECT_PROFILE", "PREFECT_API_KEY", "RAY_AUTH_TOKEN"),
)


@dataclass(frozen=True)
class Service:
    """A process that the supervisor keeps running.

    serves: whether it answers; given the time of its start (seconds since 1970), which tells its own record from one
    that a dead predecessor left. prepare, finish: what is done before each start, and once it serves. after: services
    that must serve first. bound_to: it cannot live on when this one starts again, so it starts again too. leaves: what
    it has started goes on without it.
    """

    name: str
    command: list[str]
    variables: Mapping[str, str]
    serves: Callable[[float], bool]
    url: str | None = None
    prepare: Callable[[], None] = lambda: None
    finish: Callable[[], None] = lambda: None
    after: tuple[str, ...] = ()
    bound_to: str | None = None
    leaves: bool = False
    stop_signal: int = field(default=signal.SIGTERM)


def exports(folder: StackFolder, ports: Mapping[str, int], root: Path) -> dict[str, str]:
    """The environment of whoever uses the stack: addresses, and paths of secrets, never a secret itself."""
    return {
        **servers.worker_environment(f"http://{HOST}:{ports['prefect']}/api", root),
        "PREFECT_HOME": str(folder.path / "prefect"),
        "MLFLOW_TRACKING_URI": f"http://{HOST}:{ports['mlflow']}",
        "GIGAGAN_STORE": os.environ.get("GIGAGAN_STORE", f"s3://{BUCKET}/store"),
        "AWS_ENDPOINT_URL": f"http://{HOST}:{ports['s3']}",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_SHARED_CREDENTIALS_FILE": str(folder.secrets / "aws"),
        "RAY_ADDRESS": f"{HOST}:{ports['ray']}",
        _RAY_LOCAL: "0",
        "RAY_API_SERVER_ADDRESS": f"http://{HOST}:{ports['ray-dashboard']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder.secrets / "ray"),
    }


def services(folder: StackFolder, ports: Mapping[str, int], root: Path) -> list[Service]:
    """Every service, in the order of a table. Raises GigaganError where a program is missing."""
    require_s3_server()
    environment.set_defaults()
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    common = {**inherited, **exports(folder, ports, root), MARK: str(folder.path)}
    database = Postgres(folder, ports["postgres"])
    return [
        _postgres(database, common),
        _s3(ports, common),
        _prefect(database, ports, common),
        _mlflow(database, ports, common),
        _ray_head(folder, ports, common),
        *(_ray_worker(number, folder, ports, common) for number in range(1, RAY_WORKERS + 1)),
        _prefect_worker(ports, common),
    ]


def _postgres(database: Postgres, common: Mapping[str, str]) -> Service:
    # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait until every client has gone.
    return Service(
        "postgres",
        database.command(),
        common,
        lambda started: database.answers(),
        prepare=database.prepare,
        finish=database.create_databases,
        stop_signal=signal.SIGINT,
    )


def _s3(ports: Mapping[str, int], common: Mapping[str, str]) -> Service:
    url = f"http://{HOST}:{ports['s3']}"

    def make_buckets() -> None:
        for bucket in (BUCKET, MLFLOW_BUCKET):
            ask(f"{url}/{bucket}", method="PUT")

    return Service(
        "s3",
        [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(ports["s3"])],
        common,
        lambda started: servers.answers(f"{url}/moto-api/data.json"),
        url=url,
        finish=make_buckets,
    )


def _prefect(database: Postgres, ports: Mapping[str, int], common: Mapping[str, str]) -> Service:
    command, settings = servers.prefect_command(ports["prefect"])
    url = f"http://{HOST}:{ports['prefect']}"
    connection = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url("prefect", "asyncpg")}
    # The server itself must not be told to ask another one.
    own = {name: value for name, value in common.items() if name != "PREFECT_API_URL"}
    return Service(
        "prefect",
        command,
        {**own, **settings, **connection},
        lambda started: servers.answers(f"{url}/api/health"),
        url=url,
        after=("postgres",),
    )


def _mlflow(database: Postgres, ports: Mapping[str, int], common: Mapping[str, str]) -> Service:
    command, settings = servers.mlflow_command(ports["mlflow"])
    url = f"http://{HOST}:{ports['mlflow']}"
    stores = {
        "MLFLOW_BACKEND_STORE_URI": database.url("mlflow", "psycopg2"),
        # Clients send files to this server, so they need no key to its bucket.
        "MLFLOW_SERVE_ARTIFACTS": "true",
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{MLFLOW_BUCKET}",
    }
    return Service(
        "mlflow",
        command,
        {**common, **settings, **stores},
        lambda started: servers.answers(f"{url}/health"),
        url=url,
        after=("postgres", "s3"),
    )


def _ray(*arguments: str) -> list[str]:
    common = ("--block", "--disable-usage-stats", "--include-log-monitor=false")
    # Ports that nobody has to know are free ones; several nodes share this machine.
    agent = f"--dashboard-agent-listen-port={any_port()}"
    free = (agent, "--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={_RAY_STORE_BYTES}")
    return [sys.executable, "-c", _RAY, "start", *common, *free, *arguments]


def _ray_head(folder: StackFolder, ports: Mapping[str, int], common: Mapping[str, str]) -> Service:
    url = f"http://{HOST}:{ports['ray-dashboard']}"
    command = _ray(
        *("--head", f"--port={ports['ray']}", f"--temp-dir={folder.ray}", "--num-cpus=0"),
        *(
            "--include-dashboard=true",
            f"--dashboard-host={HOST}",
            f"--dashboard-port={ports['ray-dashboard']}",
        ),
        f"--ray-client-server-port={ports['ray-client']}",
    )
    without_address = {name: value for name, value in common.items() if name != "RAY_ADDRESS"}

    def serves(started: float) -> bool:
        return any(node["is_head_node"] and _is_new(node, started) for node in _ray_nodes(folder, url))

    return Service("ray-head", command, without_address, serves, url=url)


def _ray_worker(
    number: int, folder: StackFolder, ports: Mapping[str, int], common: Mapping[str, str]
) -> Service:
    name = f"ray-worker-{number}"
    dashboard = f"http://{HOST}:{ports['ray-dashboard']}"
    cpus = max(1, len(os.sched_getaffinity(0)) // RAY_WORKERS)
    address = f"--address={HOST}:{ports['ray']}"

    def serves(started: float) -> bool:
        return any(
            node["node_name"] == name and _is_new(node, started) for node in _ray_nodes(folder, dashboard)
        )

    return Service(
        name,
        _ray(address, f"--node-name={name}", f"--num-cpus={cpus}"),
        {**common, _RAY_LOCAL: "1"},
        serves,
        after=("ray-head",),
        bound_to="ray-head",
    )


def _is_new(node: Mapping[str, Any], started: float) -> bool:
    return node["state"] == "ALIVE" and node["start_time_ms"] / 1000 > started


def _ray_nodes(folder: StackFolder, dashboard: str) -> list[dict[str, Any]]:
    """The cluster's nodes as its head sees them; none where it does not answer."""
    token = {"Authorization": f"Bearer {folder.secret('ray')}"}
    try:
        answer = ask(f"{dashboard}/api/v0/nodes?detail=True", headers=token)
        return answer["data"]["result"]["result"]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _prefect_worker(ports: Mapping[str, int], common: Mapping[str, str]) -> Service:
    api = f"http://{HOST}:{ports['prefect']}/api"

    def serves(started: float) -> bool:
        try:
            workers = ask(f"{api}/work_pools/{POOL}/workers/filter", body={})
        except (OSError, ValueError):
            return False
        return any(
            worker["name"] == WORKER_NAME
            and worker["status"] == "ONLINE"
            and datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() > started
            for worker in workers
        )

    return Service(
        "worker",
        servers.worker_command(POOL, WORKER_NAME, limit=FLOW_RUNS),
        {**common, "PREFECT_WORKER_QUERY_SECONDS": "3"},
        serves,
        # A flow run completes without the worker that has started it, and may need any of these.
        leaves=True,
        after=("prefect", "mlflow", "s3", "ray-worker-1", "ray-worker-2"),
    )


def ask(
    url: str, body: Any = None, method: str | None = None, headers: Mapping[str, str] | None = None
) -> Any:
    """The JSON that `url` answers, None for an empty answer; proxies of the environment are not asked.

    Raises OSError (urllib's HTTPError is one) or ValueError.
    """
    data = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data=data, headers=sent, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=5) as response:
        text = response.read()
    return json.loads(text) if text else None
