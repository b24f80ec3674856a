"""`gigagan pipeline`, added with `gigagan run` to the command line by the entry point group ``gigagan.commands``."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import (
    AcceptOption,
    BackendOption,
    BackendSetOption,
    ForceOption,
    JsonOption,
    PresetOption,
    SetOption,
    StoreOption,
)

RayDashboardOption = Annotated[
    bool, typer.Option("--ray-dashboard", help="Serve Ray's page on loopback while the pipeline runs.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the typer app of `gigagan`."""
    from flows.rerun_command import run_command

    app.command("pipeline")(pipeline_command)
    app.command("run")(run_command)


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Inside, flows of this process report to Prefect: a server of the user's, or a temporary one."""
    from gigagan_core import environment, servers

    environment.set_defaults()
    # The terminal is for our bars: what goes wrong reaches it as the sentence this command ends with.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    with servers.prefect_api() as api:
        with _uncollected():
            import flows.pipeline  # noqa: F401 (takes seconds, in which a temporary server starts)
            from flows.runtime import send_what_waits, without_heartbeats

        api.wait()
        try:
            with without_heartbeats():
                yield
        finally:
            send_what_waits()


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Inside, and for what is made inside for good, no garbage is looked for: imports leave none, and looking through
    hundreds of thousands of objects again and again is a sixth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def close(answer: Any, run: dict[str, Any], started: float) -> None:
    """Show what a flow returned, and answer it. started: of the command, by `time.monotonic`."""
    from gigagan_core.cli.closing import show, show_where_to_look

    show(run, time.monotonic() - started)
    show_where_to_look(in_prefect=True)
    answer(run)


def pipeline_command(
    preset: PresetOption = "demo",
    overrides: SetOption = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            metavar="FIGURE<NUMBER",
            help="Promote the models to champion only where this holds of the report. Repeat for more.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Require it of the worse end of each figure's interval.")
    ] = False,
    store: StoreOption = None,
    force: ForceOption = False,
    accept_code_change: AcceptOption = False,
    backend: BackendOption = None,
    backend_set: BackendSetOption = None,
    ray_dashboard: RayDashboardOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run everything: data, two encoders, base model, upsampler and control, report."""
    started = time.monotonic()
    with answering(as_json) as answer:
        from gigagan_core.config.backend import backend_settings
        from gigagan_core.stages.gate import checked
        from gigagan_core.stages.references import pipeline_settings
        from gigagan_core.store.store import open_store

        # What is misspelt or out of reach is said before anything starts.
        gate = [f"gate.require={json.dumps(require)}"] if require else []
        gate += ["gate.strict=true"] if strict else []
        overrides = [*(overrides or ()), *gate]
        settings = pipeline_settings(preset, overrides)
        where = backend_settings(backend, backend_set)
        checked(settings.gate.require, None)
        open_store(store)
        with reporting():
            from flows.pipeline import pipeline

            run = pipeline(
                preset=preset,
                overrides=overrides,
                settings=settings,
                store=store,
                force=force,
                accept_code_change=accept_code_change,
                backend=where,
                ray_dashboard=ray_dashboard,
            )
        close(answer, run, started)
