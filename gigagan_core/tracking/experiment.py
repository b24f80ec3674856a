"""The MLflow experiment that holds our runs, and the closing of runs whose process died."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from gigagan_core.errors import GigaganError
from gigagan_core.tracking.connection import Connection, sqlite_path
from gigagan_core.tracking.process import is_dead

# Without it the pages open on MLflow's tools for language models, and the runs are a click away.
_KIND = {"mlflow.experimentKind": "custom_model_development"}


def experiment_id(connection: Connection, name: str) -> str:
    """The experiment's id; made where it is missing, its artifacts beside a local database."""
    found = connection.ask("get_experiment_by_name", name)
    if found is None:
        path = sqlite_path(connection.tracking_uri)
        location = (Path(path).absolute().parent / "mlartifacts" / name).as_uri() if path else None
        try:
            return connection.ask("create_experiment", name, artifact_location=location, tags=_KIND)
        except Exception:
            # Another process may have made it between the question and the request.
            found = connection.ask("get_experiment_by_name", name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise GigaganError(
            f"MLflow experiment {name!r} is deleted; restore it: "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return found.experiment_id


def end_dead_runs(connection: Connection, experiment_id: str) -> list[dict[str, str]]:
    """End as KILLED the runs that a dead process of this machine left RUNNING; returns their tags."""
    return end_runs(
        connection,
        experiment_id,
        lambda tags: is_dead(tags.get("gigagan.process", "")),
        "its process died without closing this run",
    )


def end_runs(
    connection: Connection,
    experiment_id: str,
    is_over: Callable[[Mapping[str, str]], bool],
    why: str,
    tags: Mapping[str, str] | None = None,
) -> list[dict[str, str]]:
    """End as KILLED the RUNNING runs of which `is_over` holds, given their tags; returns those tags.

    why: a sentence for the runs. tags: which a run must have to be looked at.
    """
    wanted = "".join(f" and tags.`{name}` = '{value}'" for name, value in (tags or {}).items())
    ended = []
    query = f"attributes.status = 'RUNNING'{wanted}"
    for run in connection.ask("search_runs", [experiment_id], query, max_results=1000):
        if is_over(run.data.tags):
            connection.ask("set_tag", run.info.run_id, "gigagan.error", why)
            connection.ask("set_terminated", run.info.run_id, "KILLED")
            ended.append(dict(run.data.tags))
    return ended


def run_url(tracking_uri: str, experiment_id: str, run_id: str) -> str | None:
    """The page of a run on the server at `tracking_uri`; None where that is no server."""
    if not tracking_uri.startswith(("http://", "https://")):
        return None
    return f"{tracking_uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def user() -> str:
    """The user's login name, or their number where the system has no name for it (containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
