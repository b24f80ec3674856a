"""`gigagan ui` and `gigagan env`: the pages of this folder's records, and a shell that finds them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from gigagan_core import console, environment
from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import JsonOption
from gigagan_core.errors import GigaganError

POOL = "local"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("ui")(ui)
    app.command("env")(env)


def ui(
    worker: Annotated[
        bool,
        typer.Option(
            "--worker",
            help="Also deploy prefect.yaml's local part and run what `prefect deployment run` asks for.",
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Stop as soon as everything serves: tells whether it can.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve the Prefect and MLflow pages of .gigagan on this machine, until Ctrl-C."""
    from gigagan_core import servers

    with answering(as_json) as answer, _only_one() as first:
        if not first:
            _tell_other(servers, answer, worker)
            return
        with contextlib.ExitStack() as stack:
            started = [servers.start_prefect()]
            stack.callback(started[0].stop)
            # Records that go to a server elsewhere are looked at there.
            mlflow = environment.mlflow_uri()
            if not mlflow.startswith(("http://", "https://")):
                started.append(servers.start_mlflow())
                stack.callback(started[1].stop)
                mlflow = started[1].url
            _tell_ports(servers, started)
            for server in started:
                server.wait_until_healthy()
            prefect = started[0].url
            stack.enter_context(servers.recorded(prefect, mlflow))
            if worker:
                root = checkout()
                console.note(f"deploying {root / 'prefect.yaml'} to work pool {POOL!r}")
                servers.deploy(servers.worker_environment(f"{prefect}/api", root), root, POOL)
                started.append(servers.start_worker(f"{prefect}/api", root, POOL))
                stack.callback(started[-1].stop)
            answer.now({"prefect": prefect, "mlflow": mlflow, "started": True})
            _tell(prefect, mlflow, worker)
            if not check:
                _watch(started)


def _tell_other(servers: Any, answer: Any, worker: bool) -> None:
    """Say where the `gigagan ui` that runs already serves."""
    found = _wait_for_other(servers)
    if worker:
        raise GigaganError(
            f"`gigagan ui` runs already ({found.prefect}), without your --worker; stop it with Ctrl-C and "
            "start it with --worker"
        )
    console.note(f"already running: Prefect {found.prefect}, MLflow {found.mlflow}")
    answer({"prefect": found.prefect, "mlflow": found.mlflow, "started": False})


def _watch(started: list[Any]) -> None:
    """Return on Ctrl-C, the usual way to end; raise where a server ends by itself."""
    try:
        while all(server.process.poll() is None for server in started):
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.note("stopping")
        return
    ended = next(server for server in started if server.process.poll() is not None)
    raise GigaganError(f"{ended.name} ended with code {ended.process.returncode}; see {ended.log}")


def _tell_ports(servers: Any, started: list[Any]) -> None:
    for server, usual in zip(started, (servers.PREFECT_PORT, servers.MLFLOW_PORT), strict=False):
        if not server.url.endswith(f":{usual}"):
            console.warn(f"port {usual} is taken: {server.name} uses {server.url.rpartition(':')[2]}")
    console.note(f"starting {' and '.join(server.name for server in started)} (10 to 30 s)")


def _tell(prefect: str, mlflow: str, worker: bool) -> None:
    screen = console.console()
    screen.print(f"  Prefect  [bold]{prefect}[/bold]   runs, stages, tables, pictures")
    screen.print(f"  MLflow   [bold]{mlflow}[/bold]   curves, parameters, sample grids")
    if worker:
        screen.print(f"  worker   pool [bold]{POOL}[/bold]; from another terminal, in this folder:")
        screen.print('           eval "$(.venv/bin/gigagan env)"', markup=False)
        screen.print("           prefect deployment run pipeline/demo", markup=False)
    screen.print("  Ctrl-C stops them")


@contextlib.contextmanager
def _only_one() -> Iterator[bool]:
    """Whether this is the only `gigagan ui` of its home; the lock ends with the process, however it ends."""
    path = environment.home() / "ui.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "w", encoding="utf-8")  # noqa: SIM115 (held open for the whole block)
    except OSError as error:
        raise GigaganError(f"{path} cannot be written: {error.strerror}; check GIGAGAN_HOME") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _wait_for_other(servers: Any) -> Any:
    deadline = time.monotonic() + servers.START_SECONDS
    while (found := servers.running()) is None:
        if time.monotonic() > deadline:
            raise GigaganError(
                f"another `gigagan ui` of {environment.home()} has not come up; stop it and try again"
            )
        time.sleep(0.5)
    return found


def checkout() -> Path:
    """The folder with prefect.yaml: the current one, or the one this package lies in."""
    for folder in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (folder / "prefect.yaml").is_file():
            return folder
    raise GigaganError(f"no prefect.yaml in {Path.cwd()}; go to the checkout of this project")


def env() -> None:
    """Print shell lines that point prefect and mlflow at this folder's records: eval "$(gigagan env)"."""
    from gigagan_core import servers

    found = servers.running()
    for name, value in environment_of_shell(found.prefect if found else None).items():
        typer.echo(f"export {name}={shlex.quote(value)}")
    if found is None:
        if servers.HOST in os.environ.get("PREFECT_API_URL", ""):  # left by an earlier eval
            typer.echo("unset PREFECT_API_URL")
        typer.echo("# no server runs: start one with `gigagan ui --worker`, then give this command again")


def environment_of_shell(prefect: str | None) -> dict[str, str]:
    """The variables that a shell, a notebook or a worker needs; prefect: address of a running server."""
    from gigagan_core import servers

    before = dict(os.environ)
    environment.set_defaults()
    values = {name: value for name, value in os.environ.items() if name not in before}
    try:
        root = checkout()
    except GigaganError:
        root = Path.cwd()
    values |= servers.worker_environment(f"{prefect}/api" if prefect else "", root) | shell_path()
    return {name: value for name, value in values.items() if value}


def shell_path() -> dict[str, str]:
    """`PATH` with this environment's programs in it, where it lacks them."""
    programs, path = str(Path(sys.executable).parent), os.environ.get("PATH", "")
    return {} if programs in path.split(os.pathsep) else {"PATH": f"{programs}{os.pathsep}{path}"}
