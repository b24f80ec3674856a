"""`gigagan serve`: a model behind HTTP, for programs and for people."""

from __future__ import annotations

from typing import Annotated

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.inference_options import DeviceOption, ModelEncoderOption, ModelOption, UpsamplerOption
from gigagan_core.cli.options import JsonOption, SetOption, StoreOption


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("serve")(serve)


def serve(
    model: ModelOption = "latest",
    upsampler: UpsamplerOption = None,
    encoder: ModelEncoderOption = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8080,
    replicas: Annotated[
        int, typer.Option("--replicas", min=1, help="Processes with a copy of the model each.")
    ] = 1,
    max_batch_size: Annotated[
        int, typer.Option("--max-batch-size", min=1, help="Pictures in one forward pass.")
    ] = 32,
    batch_wait: Annotated[
        float,
        typer.Option(
            "--batch-wait", min=0.0, metavar="SECONDS", help="A batch goes when nobody has come for so long."
        ),
    ] = 0.005,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Serve the page for people at /.")] = True,
    device: DeviceOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a model until Ctrl-C: JSON API, health, metrics, and a page to try it on.

    Limits are settings, such as --set limits.pictures=32; `GET /v1/model` tells them.
    """
    with answering(as_json) as answer:
        from gigagan_core import console, environment
        from gigagan_core.config.base import parse, with_overrides
        from gigagan_core.config.serve import ServeSettings
        from gigagan_core.serving.models import pin
        from gigagan_core.serving.server import serve_until_stopped
        from gigagan_core.store.store import open_store

        environment.set_defaults()
        given = {
            "host": host,
            "port": port,
            "replicas": replicas,
            "max_batch_size": max_batch_size,
            "batch_wait_seconds": batch_wait,
            "page": page,
        }
        settings = with_overrides(parse(ServeSettings, given, "serve"), overrides or ())
        served, without = pin(model, upsampler, encoder, device, open_store(store))
        if without is not None:
            console.note(f"pictures stay small: {without}")
        console.note(f"starting {settings.replicas} of model {served.name} (20 to 60 s)")

        def ready(url: str, facts: dict) -> None:
            answer.now({"url": url, "model": {name: facts[name] for name in ("name", "sha256")}})
            what = "page and API" if settings.page else "API"
            console.console().print(
                f"serving   [bold]{url}[/bold]   {what} of {served.name}; Ctrl-C stops it"
            )

        serve_until_stopped(served, settings, ready)
