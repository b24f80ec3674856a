"""`gigagan run STAGE --from RUN`: a stage of an earlier pipeline run again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.command import RayDashboardOption, close, reporting
from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import (
    AcceptOption,
    BackendOption,
    BackendSetOption,
    ForceOption,
    JsonOption,
    SetOption,
    StoreOption,
)
from gigagan_core.cli.tables import print_table
from gigagan_core.stages.roles import ROLES, Branch, StageName

if TYPE_CHECKING:
    from gigagan_core.stages.rerun import RunPlan
    from gigagan_core.store.runs import RunRecord


def run_command(
    stage: Annotated[StageName, typer.Argument(metavar="STAGE", help="Where the run begins.")],
    run: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Earlier run: id, prefix, Prefect run's name, or `latest`, the newest that finished.",
        ),
    ] = "latest",
    tables: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="TABLE", help="New parquet file, folder or URI. Repeat for more."),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace/--append", help="In the place of the run's tables, or beside them."),
    ] = False,
    data_of: Annotated[
        Branch | None,
        typer.Option("--for", help="Whose data.", show_default="the stage's, or every training set's"),
    ] = None,
    only: Annotated[bool, typer.Option("--only", help="Leave out what is downstream.")] = False,
    plan_only: Annotated[bool, typer.Option("--plan", help="Show what would run, and run nothing.")] = False,
    overrides: SetOption = None,
    store: StoreOption = None,
    force: ForceOption = False,
    accept_code_change: AcceptOption = False,
    backend: BackendOption = None,
    backend_set: BackendSetOption = None,
    ray_dashboard: RayDashboardOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a stage of an earlier pipeline run again, and what is downstream of it, with other data or settings.

    STAGE is ingest, train-encoder, curate, train-base, train-upsampler or evaluate; everything upstream of it is kept
    as that run had it. New tables come to it through ingest and curate; what is there is not fetched again.
    """
    started = time.monotonic()
    with answering(as_json) as answer:
        from gigagan_core.config.backend import backend_settings
        from gigagan_core.stages.rerun import Change, plan
        from gigagan_core.store import runs
        from gigagan_core.store.store import open_store

        mode = "replace" if replace else "append"
        change = Change(tuple(tables or ()), mode, data_of, only, tuple(overrides or ()), force)
        # What is misspelt or out of reach is said before anything starts.
        where = backend_settings(backend, backend_set)
        opened = open_store(store)
        record = runs.find(opened, run)
        chosen = plan(stage, record, change, opened)
        if plan_only:
            answer(_document(chosen, record))
            if not as_json:
                _print(chosen)
            return
        with reporting():
            from flows.rerun import rerun

            done = rerun(
                stage=stage,
                run=record.id,
                tables=tables,
                mode=mode,
                data_of=data_of,
                only=only,
                overrides=overrides,
                store=store,
                force=force,
                accept_code_change=accept_code_change,
                backend=where,
                ray_dashboard=ray_dashboard,
            )
        close(answer, done, started)


def _document(plan: RunPlan, record: RunRecord) -> dict[str, Any]:
    return {
        "of": record.id,
        "runs": [role for role in ROLES if role in plan.wanted],
        "forced": sorted(plan.forced),
        "kept": {role: artifact.reference() for role, artifact in plan.kept.items()},
        "source": plan.settings.source.model_dump(mode="json"),
    }


def _print(plan: RunPlan) -> None:
    from gigagan_core.stages.base import described

    def what(role: Any) -> str:
        if role in plan.wanted:
            return "made again" if role in plan.forced else "runs, unless it is there"
        return f"kept, {described(plan.kept[role])}"

    print_table(
        ("role", "what"), [(role, what(role)) for role in ROLES if role in plan.wanted or role in plan.kept]
    )
