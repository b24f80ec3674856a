"""`gigagan`: the commands of this package, and those that other packages add.

Another package adds a command with an entry point of the group ``gigagan.commands``: a function that is
given the typer app. `flows` adds `pipeline` so, since nothing here may import Prefect's flows.
"""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from gigagan_core import __version__
from gigagan_core.cli import (
    assets_commands,
    damage_command,
    doctor_command,
    export_command,
    inference_commands,
    metrics_command,
    plan_commands,
    portable_commands,
    report_commands,
    serve_command,
    server_commands,
    show_commands,
    stack_commands,
    stage_commands,
    store_commands,
    store_keeping_commands,
)

app = typer.Typer(
    name="gigagan",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="GigaGAN as a pipeline: from a table of URLs and captions to two trained GANs and a report.",
    epilog="A command that was cut off continues when it is given again.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gigagan {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Options before the command's name; typer calls it, the option's own callback does the work."""


for _entry_point in sorted(importlib.metadata.entry_points(group="gigagan.commands"), key=lambda e: e.name):
    _entry_point.load()(app)
stage_commands.register(app)
metrics_command.register(app)
inference_commands.register(app)
damage_command.register(app)
export_command.register(app)
serve_command.register(app)
report_commands.register(app)
show_commands.register(app)
store_commands.register(app)
store_keeping_commands.register(store_commands.store_app)
plan_commands.register(app)
assets_commands.register(app)
portable_commands.register(app)
server_commands.register(app)
stack_commands.register(app)
doctor_command.register(app)
