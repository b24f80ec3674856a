"""`gigagan pipeline`, added to the command line through the entry point group ``gigagan.commands``."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import (
    AcceptOption,
    ForceOption,
    JsonOption,
    PresetOption,
    SetOption,
    StoreOption,
)


def register(app: typer.Typer) -> None:
    """Add the command to the typer app of `gigagan`."""
    app.command("pipeline")(pipeline_command)


def pipeline_command(
    preset: PresetOption = "demo",
    overrides: SetOption = None,
    store: StoreOption = None,
    force: ForceOption = False,
    accept_code_change: AcceptOption = False,
    ray_dashboard: Annotated[
        bool, typer.Option("--ray-dashboard", help="Serve Ray's page on loopback while the pipeline runs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run everything: data, two encoders, base model, upsampler and control, report."""
    started = time.monotonic()
    with answering(as_json) as answer:
        from gigagan_core import environment, servers
        from gigagan_core.cli.closing import show, show_where_to_look
        from gigagan_core.stages.references import pipeline_settings
        from gigagan_core.store.store import open_store

        # What is misspelt or out of reach is said before anything starts.
        settings = pipeline_settings(preset, overrides)
        open_store(store)
        environment.set_defaults()
        # The terminal is for our bars: what goes wrong reaches it as the sentence this command ends with.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        with servers.prefect_api() as api:
            from flows.pipeline import pipeline
            from flows.runtime import send_what_waits

            api.wait()
            try:
                run = pipeline(
                    preset=preset,
                    overrides=overrides,
                    settings=settings,
                    store=store,
                    force=force,
                    accept_code_change=accept_code_change,
                    ray_dashboard=ray_dashboard,
                )
            finally:
                send_what_waits()
        show(run, time.monotonic() - started)
        show_where_to_look()
        answer(run)
