"""`gigagan doctor`: whether a run would work here, looked at before anything queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import JsonOption, PresetOption, StoreOption
from gigagan_core.config.backend import BackendKind

if TYPE_CHECKING:
    from gigagan_core.doctor.finding import Finding

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("doctor")(doctor)


def doctor(
    preset: PresetOption = "demo",
    backend: Annotated[
        BackendKind | None,
        typer.Option(
            "--backend", help="Where the work is to be done.", show_default="of GIGAGAN_BACKEND, or local"
        ),
    ] = None,
    store: StoreOption = None,
    no_plan: Annotated[
        bool,
        typer.Option(
            "--no-plan", help="Do not count the GPUs' memory, which takes minutes for large models."
        ),
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="URL",
            help="Dashboard of the cluster, for ray-job.",
            show_default="of GIGAGAN_BACKEND, or RAY_API_SERVER_ADDRESS",
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            help="Of the RayJobs, for kuberay.",
            show_default="of GIGAGAN_BACKEND, or default",
        ),
    ] = None,
    kube_api: Annotated[
        str | None,
        typer.Option(
            "--kube-api",
            metavar="URL",
            help="The Kubernetes API.",
            show_default="of GIGAGAN_BACKEND, or as kubectl finds it",
        ),
    ] = None,
    kube_context: Annotated[
        str | None,
        typer.Option(
            "--kube-context",
            metavar="NAME",
            help="Of kubeconfig.",
            show_default="of GIGAGAN_BACKEND, or the current one",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at this machine, the store, the weights and the servers; each finding is one line with its mend.

    Ends with 1 where something would make a run fail.
    """
    with answering(as_json) as answer:
        from gigagan_core import environment
        from gigagan_core.config import presets
        from gigagan_core.config.backend import backend_settings
        from gigagan_core.doctor.checks import checks
        from gigagan_core.doctor.finding import run
        from gigagan_core.doctor.request import Request

        environment.set_defaults()
        presets.known(preset)
        request = Request.at(
            backend_settings(),
            preset=preset,
            backend=backend,
            store=store,
            plan=not no_plan,
            ray_address=ray_address,
            namespace=namespace,
            kube_api=kube_api,
            kube_context=kube_context,
        )
        found = []
        for finding in run(checks(request)):
            found.append(finding)
            if not as_json:
                _print(finding)
        counts = {status: sum(each.status == status for each in found) for status in _STYLES}
        answer.now(
            {
                "preset": preset,
                "backend": request.backend,
                **counts,
                "findings": [vars(each) for each in found],
            }
        )
        if not as_json:
            typer.echo(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} to mend")
    if counts["fail"]:
        raise typer.Exit(1)


def _print(finding: Finding) -> None:
    from rich.console import Console

    from gigagan_core.text import for_terminal

    style = _STYLES[finding.status]
    mend = f" [dim]->[/dim] {for_terminal(finding.mend, 1000)}" if finding.mend else ""
    what = for_terminal(finding.what, 1000)
    Console(soft_wrap=True, highlight=False).print(
        f"[{style}]{finding.status:4}[/{style}]  {for_terminal(finding.name):17} {what}{mend}"
    )
