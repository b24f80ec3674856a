"""Servers: Prefect's, MLflow's, a Ray cluster, the Kubernetes API; whether they answer, and with the right version."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gigagan_core import environment, servers
from gigagan_core.doctor.finding import Finding, fail, ok, warn
from gigagan_core.doctor.request import Request
from gigagan_core.text import plain, without_password
from gigagan_core.tracking.connection import sqlite_path

SECONDS = 10.0
REFUSED = (401, 403)


@dataclass(frozen=True)
class Answer:
    """What a server said. status: of HTTP; None where nothing answered, and then body says why."""

    status: int | None
    body: str


def ask(url: str, headers: Mapping[str, str] | None = None, seconds: float = SECONDS) -> Answer:
    """GET `url`; loopback is asked without the environment's proxy."""
    local = any(f"//{host}" in url for host in (servers.HOST, "localhost"))
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
    try:
        with opener.open(
            urllib.request.Request(url, headers=dict(headers or {})), timeout=seconds
        ) as response:
            return Answer(response.status, response.read(100_000).decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(1000).decode("utf-8", "replace"))
    except (OSError, ValueError) as error:
        return Answer(None, plain(getattr(error, "reason", error)))


def prefect() -> Iterator[Finding]:
    """The server of PREFECT_API_URL, or of a `gigagan ui`; without either a run starts its own."""
    found = servers.running()
    url = os.environ.get("PREFECT_API_URL") or (f"{found.prefect}/api" if found else None)
    if url is None:
        yield ok("prefect", "no PREFECT_API_URL: each run starts a server for itself")
        return
    url = url.rstrip("/")
    key = os.environ.get("PREFECT_API_AUTH_STRING")
    headers = _basic(key) if key else {}
    answer = ask(f"{url}/admin/version", headers)
    if answer.status in REFUSED:
        yield fail(
            "prefect", f"{url} refuses us ({answer.status})", "set PREFECT_API_AUTH_STRING to USER:PASSWORD"
        )
    elif answer.status != 200:
        yield _away("prefect", url, answer, "start it (`gigagan ui --worker`), or unset PREFECT_API_URL")
    else:
        yield _version("prefect", url, answer.body.strip().strip('"'), "prefect")


def mlflow() -> Iterator[Finding]:
    """Where records go: a server, or a database."""
    uri = environment.mlflow_uri()
    if not uri.startswith(("http://", "https://")):
        yield _database(uri)
        return
    url = without_password(uri)
    answer = ask(f"{url.rstrip('/')}/version", _mlflow_headers(uri))
    if answer.status in REFUSED:
        mend = (
            "set MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN; or start the server with "
            "--allowed-hosts for its name"
        )
        yield fail("mlflow", f"{url} refuses us ({answer.status})", mend)
    elif answer.status != 200:
        yield _away("mlflow", url, answer, "start it, or unset MLFLOW_TRACKING_URI")
    else:
        yield _version("mlflow", url, answer.body.strip(), "mlflow")


def _mlflow_headers(uri: str) -> dict[str, str]:
    """Who we are, in the order of MLflow's own client: the address, user and password, a token."""
    address = urllib.parse.urlsplit(uri)
    if address.username is not None:
        user, password = address.username, address.password or ""
        return _basic(f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}")
    user, password, token = (
        os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD", "TOKEN")
    )
    if user and password:
        return _basic(f"{user}:{password}")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _database(uri: str) -> Finding:
    import sqlalchemy

    path = sqlite_path(uri)
    if path is not None and not os.path.exists(path):
        return ok("mlflow", f"{path} will be made by the first run")
    url = sqlalchemy.make_url(uri)
    place = path or url.render_as_string(hide_password=True)
    try:
        engine = sqlalchemy.create_engine(url)
    except ImportError as error:
        mend = "name the one that is installed: postgresql+psycopg2://USER:PASSWORD@HOST/DATABASE"
        return fail("mlflow", f"{place} wants a driver that is not here: {plain(error)}", mend)
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("select 1 from experiments limit 1"))
    except sqlalchemy.exc.SQLAlchemyError as error:
        said = plain(getattr(error, "orig", None) or error)
        return fail("mlflow", f"{place} cannot be read: {said}", "check MLFLOW_TRACKING_URI and GIGAGAN_HOME")
    finally:
        engine.dispose()
    return ok("mlflow", f"{place} can be read")


def ray(request: Request) -> Iterator[Finding]:
    """The cluster that RAY_ADDRESS joins, or that takes jobs; with its token."""
    if request.backend == "ray-job":
        if request.ray_address is None:
            mend = "give --ray-address http://HOST:8265, or set RAY_API_SERVER_ADDRESS"
            yield fail("ray", "backend ray-job has no address", mend)
            return
        yield from _dashboard(request.ray_address.rstrip("/"))
        return
    address = os.environ.get("RAY_ADDRESS")
    if request.backend == "kuberay":
        yield ok("ray", "each stage gets a cluster of its own")
    elif address is None:
        yield ok("ray", "no RAY_ADDRESS: each run starts a cluster of its own on this machine")
    else:
        yield _port(address)


def _dashboard(url: str) -> Iterator[Finding]:
    token = _ray_token()
    answer = ask(f"{url}/api/version", {"Authorization": f"Bearer {token}"} if token else {})
    if answer.status in REFUSED:
        what = f"{url} does not take our token" if token else f"{url} wants a token"
        yield fail(
            "ray",
            what,
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file with the cluster's token",
        )
    elif answer.status != 200:
        yield _away(
            "ray", url, answer, "start the cluster, or look at its address: the dashboard's, not the head's"
        )
    else:
        yield _version("ray", url, _field(answer.body, "ray_version"), "ray", exact=True)
        if token is None:
            mend = "start the cluster with RAY_AUTH_MODE=token: whoever reaches it runs code"
            yield warn("ray", f"{url} asks for no token", mend)


def _port(address: str) -> Finding:
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return ok("ray", f"RAY_ADDRESS is {address}, which Ray finds by itself")
    try:
        with socket.create_connection((host.rpartition("/")[2], int(port)), SECONDS):
            return ok("ray", f"{address} can be reached")
    except OSError as error:
        mend = "start the cluster, or unset RAY_ADDRESS to have one of one's own"
        return fail("ray", f"{address} (RAY_ADDRESS) cannot be reached: {plain(error)}", mend)


def _ray_token() -> str | None:
    """As Ray's own clients find it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    default = Path.home() / ".ray" / "auth_token"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", default)).expanduser()
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _away(name: str, url: str, answer: Answer, mend: str) -> Finding:
    said = answer.body if answer.status is None else f"it answers {answer.status}"
    return fail(name, f"{url} does not serve: {plain(said)}", mend)


def _version(name: str, url: str, version: str, package: str, exact: bool = False) -> Finding:
    ours = importlib.metadata.version(package)
    if version == ours:
        return ok(name, f"{url} serves version {version}")
    what = f"{url} serves version {plain(version, 40)}, and {ours} is installed here"
    mend = f"install {package} {ours} there: both from one lock"
    same_line = version.split(".")[:2] == ours.split(".")[:2]
    return fail(name, what, mend) if exact or not same_line else warn(name, what, mend)


def _field(body: str, name: str) -> str:
    try:
        return str(json.loads(body)[name])
    except (ValueError, KeyError, TypeError):
        return "unknown"


def _basic(credentials: str) -> dict[str, str]:
    import base64

    return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}
