"""Where local state lives, and the switches that other tools read from the environment.

Everything local is under one folder, `.gigagan/` of the current directory or `GIGAGAN_HOME`; what is in it is listed in
docs/architecture.md, "Local state".
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from gigagan_core.errors import GigaganError
from gigagan_core.text import without_password

_NODE_PATIENCE = "GIGAGAN_RAY_NODE_PATIENCE_S"
_SWITCHES = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_MODE": "disabled",
    "GRADIO_ANALYTICS_ENABLED": "False",
    # albumentations comes with img2dataset and asks the network for its newest version at import
    "NO_ALBUMENTATIONS_UPDATE": "1",
    # ray starts workers at niceness 15: a training worker would yield to every other process of the machine
    "RAY_worker_niceness": "0",
    # ray warns about its own accelerator variables at every start otherwise
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def home() -> Path:
    """The folder of all local state, absolute; not created here."""
    return Path(os.environ.get("GIGAGAN_HOME", ".gigagan")).expanduser().absolute()


def store_uri() -> str:
    """The default store: `GIGAGAN_STORE`, or `store` under the home folder."""
    return os.environ.get("GIGAGAN_STORE", str(home() / "store"))


def assets() -> Path:
    """Where files from outside lie: `GIGAGAN_ASSETS`, which several machines may share, or `assets` under the home."""
    return Path(os.environ.get("GIGAGAN_ASSETS", home() / "assets")).expanduser().absolute()


def mlflow_uri() -> str:
    """MLflow's tracking URI: `MLFLOW_TRACKING_URI`, or the SQLite file under the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{home() / 'mlflow.db'}")


def mlflow_page() -> str | None:
    """Where a browser finds MLflow: `GIGAGAN_MLFLOW_UI_URL`, or the address of a tracking server; None for a database.

    A user and a password in that address are left out: a link is shown to everybody.
    """
    page = os.environ.get("GIGAGAN_MLFLOW_UI_URL")
    if page:
        return page
    uri = mlflow_uri()
    return without_password(uri) if uri.startswith(("http://", "https://")) else None


def mlflow_artifacts() -> Path:
    """Where a new local MLflow experiment keeps its artifacts."""
    return home() / "mlartifacts"


def prefect_home() -> Path:
    """Prefect's folder: `PREFECT_HOME`, or `prefect` under the home folder."""
    return Path(os.environ.get("PREFECT_HOME", home() / "prefect")).absolute()


def ray_node_patience() -> float:
    """Seconds to wait for nodes that a growing Ray cluster is asked for: `GIGAGAN_RAY_NODE_PATIENCE_S`, which such a
    cluster's head has. 0, where it is not set: the nodes that there are, are all.

    Raises GigaganError for what is no number of seconds.
    """
    given = os.environ.get(_NODE_PATIENCE, "0")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise GigaganError(f"{_NODE_PATIENCE} {given!r} is no number of seconds; give such as 900, or 0")
    return seconds


def set_defaults() -> None:
    """Set telemetry off, Ray's switches and Prefect's home, where the user has not set them.

    Must run before prefect, ray, mlflow or img2dataset are imported: they read these at import.
    """
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(prefect_home()))
    # The first start of an ephemeral Prefect server migrates its database: 14 s measured on 2 cores.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
