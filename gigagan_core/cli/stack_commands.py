"""`gigagan stack`: the servers of a platform on this machine, up, down, and how a shell finds them."""

from __future__ import annotations

import collections
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from gigagan_core import console
from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import JsonOption
from gigagan_core.cli.server_commands import checkout, shell_path
from gigagan_core.errors import GigaganError

stack = typer.Typer(
    no_args_is_help=True,
    help="PostgreSQL, Prefect and a worker, MLflow, S3 and Ray, as processes of this machine, all on loopback.",
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(stack, name="stack")


@stack.command("up")
def up(as_json: JsonOption = False) -> None:
    """Start every service, deploy prefect.yaml, and return when all serve; a running stack is found again."""
    from gigagan_core.stack import control

    with answering(as_json) as answer:
        state, started = control.up(_folder(), checkout(), console.note)
        if not started:
            console.note("already running")
        _show(state)
        console.note(
            'in a shell: eval "$(.venv/bin/gigagan stack env)"; then: prefect deployment run pipeline/tiny --watch'
        )
        answer({**_document(state), "started": started})


@stack.command("down")
def down(as_json: JsonOption = False) -> None:
    """End every service and whatever they have started; PostgreSQL's data stay, the objects in S3 do not."""
    from gigagan_core.stack import control

    with answering(as_json) as answer:
        ended = control.down(_folder())
        console.note("ended" if ended else "nothing was running")
        answer({"ended": ended})


@stack.command("status")
def status(as_json: JsonOption = False) -> None:
    """Show each service: whether it serves, where, since its how manieth start. Exits with 1 unless all serve."""
    with answering(as_json) as answer:
        state = _running()
        _show(state)
        answer(_document(state))
        not_serving = [name for name, each in state.services.items() if each.state != "healthy"]
        if not_serving:
            raise GigaganError(f"{', '.join(not_serving)}: not serving; `gigagan stack logs NAME` says why")


@stack.command("logs")
def logs(
    service: Annotated[str, typer.Argument(help="A service, or supervisor.")] = "supervisor",
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines.", min=1)] = 50,
) -> None:
    """Print the end of a service's log."""
    folder = _folder()
    with answering():
        known = sorted(path.stem for path in folder.logs.glob("*.log"))
        if service not in known:
            raise GigaganError(
                f"no log of {service!r} in {folder.logs} (there are: {', '.join(known) or 'none'})"
            )
        with open(folder.log(service), encoding="utf-8", errors="replace") as log:
            typer.echo("".join(collections.deque(log, maxlen=lines)), nl=False)


@stack.command("env")
def env() -> None:
    """Print shell lines that point gigagan, prefect, mlflow and ray at the stack: eval "$(gigagan stack env)"."""
    from gigagan_core.stack.services import NOT_INHERITED, exports

    with answering():
        state = _running()
        for name, value in {**exports(_folder(), state.ports, Path(state.root)), **shell_path()}.items():
            typer.echo(f"export {name}={shlex.quote(value)}")
        typer.echo(f"unset {' '.join(NOT_INHERITED)}")


def _folder() -> Any:
    from gigagan_core.stack.folder import StackFolder

    return StackFolder()


def _running() -> Any:
    folder = _folder()
    state = folder.running()
    if state is None:
        raise GigaganError(f"no stack of {folder.path} runs; start it with `gigagan stack up`")
    return state


def _document(state: Any) -> dict[str, Any]:
    return {"ports": state.ports, "services": {name: vars(each) for name, each in state.services.items()}}


def _show(state: Any) -> None:
    from rich import box
    from rich.table import Table

    table = Table("service", "state", "where", "process", "restarts", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, each in state.services.items():
        where = each.url or ""
        if name == "postgres":
            where = f"127.0.0.1:{state.ports['postgres']}"
        table.add_row(
            name, each.state, where, str(each.pid or ""), str(each.restarts), style=_STYLES.get(each.state)
        )
    console.console().print(table)


_STYLES = {"failed": "red", "silent": "yellow", "waiting": "dim", "starting": "dim"}
