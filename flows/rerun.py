"""A stage of an earlier pipeline run again, with other data or settings, and what is downstream of it."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.pipeline import run_plan
from flows.runtime import FLOW, open_run
from gigagan_core.config.backend import BackendSettings
from gigagan_core.config.base import flat
from gigagan_core.stages.rerun import Change, Mode, plan
from gigagan_core.stages.roles import Branch, StageName
from gigagan_core.store import runs
from gigagan_core.store.store import open_store


@flow(name="rerun", **FLOW)
def rerun(
    stage: StageName,
    run: str = "latest",
    tables: list[str] | None = None,
    mode: Mode = "append",
    data_of: Branch | None = None,
    only: bool = False,
    overrides: list[str] | None = None,
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
    backend: BackendSettings | None = None,
    ray_dashboard: bool = False,
) -> dict[str, Any]:
    """One stage of a pipeline run and what is downstream of it; everything else is kept as that run had it.

    Args:
        stage: where the run begins.
        run: the earlier run: its id or a prefix, its flow run's id or name, or latest, the newest that finished.
        tables: new parquet tables of URLs and captions, folders of them, or URIs.
        mode: append the tables to the run's own, of which nothing is fetched again, or replace those.
        data_of: whose data are exchanged; without it the stage's, or every training set's.
        only: leave out what is downstream.
        overrides: changes to the pipeline's settings, each as KEY=VALUE, e.g. base.training.schedule.seed=1.
        store: folder or URI of the artifact store; without it the local one.
        force: make the stage again though its artifact exists.
        accept_code_change: keep artifacts that older code made.
        backend: where the work is done; without it on the machine of this flow run.
        ray_dashboard: serve Ray's page on loopback while the stages run.

    Returns what `gigagan run --json` prints.
    """
    change = Change(tuple(tables or ()), mode, data_of, only, tuple(overrides or ()), force)
    opened = open_store(store)
    chosen = plan(stage, runs.find(opened, run), change, opened)
    with open_run(
        "rerun",
        store,
        accept_code_change=accept_code_change,
        params=flat(chosen.settings),
        as_parent=True,
        ray_dashboard=ray_dashboard,
        backend=backend,
    ) as opened_run:
        return run_plan(opened_run, chosen, "rerun")
