"""The folder of a stack: what is running in it, on which ports, with which secrets, and its logs.

``.gigagan/stack/`` holds ``state.json``, ``secrets/`` (each file 0600), ``logs/`` and the data of the services. Ray's
sockets lie elsewhere, since their paths may have 107 bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gigagan_core import environment
from gigagan_core.errors import GigaganError
from gigagan_core.stages.ray_session import free_port
from gigagan_core.tracking.process import is_dead

USUAL_PORTS = {
    "postgres": 5432,
    "s3": 9000,
    "prefect": 4200,
    "mlflow": 5000,
    "ray": 6379,
    "ray-dashboard": 8265,
    "ray-client": 10001,
}


@dataclass
class ServiceState:
    """state: waiting, starting, healthy, silent (runs and does not answer), stopped or failed.

    seconds: from its last start until it served. restarts: starts after the first one.
    """

    state: str = "waiting"
    pid: int | None = None
    restarts: int = 0
    seconds: float | None = None
    url: str | None = None
    reason: str | None = None


@dataclass
class StackState:
    """What `state.json` holds. process: the supervisor's name (`tracking.process.owner`); root: the checkout."""

    process: str
    root: str
    ports: dict[str, int]
    services: dict[str, ServiceState] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether every service serves."""
        return bool(self.services) and all(each.state == "healthy" for each in self.services.values())


class StackFolder:
    """The places and the records of one stack."""

    def __init__(self, path: Path | None = None):
        self.path = path or environment.home() / "stack"
        self.logs = self.path / "logs"
        self.secrets = self.path / "secrets"
        self.state_file = self.path / "state.json"
        # One short folder for each stack of the machine, the same one every time.
        name = hashlib.sha256(str(self.path).encode()).hexdigest()[:10]
        self.ray = Path(tempfile.gettempdir()) / f"gigagan-{name}"
        if len(str(self.ray)) > 40:
            self.ray = Path("/tmp") / self.ray.name

    def create(self) -> None:
        """Make the folders and the secrets that are missing. Raises GigaganError where that cannot be done."""
        try:
            for folder in (self.path, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
            self.secrets.mkdir(mode=0o700, exist_ok=True)
            for name in ("postgres", "ray"):
                self._keep(name, secrets.token_hex(24))
            self._keep("aws", _credentials(secrets.token_hex(10), secrets.token_hex(20)))
        except OSError as error:
            raise GigaganError(
                f"{self.path} cannot be written: {error.strerror}; check GIGAGAN_HOME"
            ) from None

    def _keep(self, name: str, text: str) -> None:
        path = self.secrets / name
        if path.exists():
            return
        temporary = path.with_name(f".{name}.{os.getpid()}")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        os.replace(temporary, path)

    def secret(self, name: str) -> str:
        """The text of a secret: "postgres" (a password), "ray" (a token), "aws" (a credentials file)."""
        return (self.secrets / name).read_text()

    def log(self, name: str) -> Path:
        """Where a service, or the "supervisor", writes."""
        return self.logs / f"{name}.log"

    def ports(self) -> dict[str, int]:
        """A free port for each server: the one of last time, else the usual one, else the next free one."""
        last = self.read()
        chosen = {**USUAL_PORTS, **(last.ports if last else {})}
        taken: dict[str, int] = {}
        for name in USUAL_PORTS:
            port = free_port(chosen[name])
            while port in taken.values():
                port = free_port(port + 1)
            taken[name] = port
        return taken

    def read(self) -> StackState | None:
        """What was last written; None for nothing, or nothing that can be read."""
        try:
            found: dict[str, Any] = json.loads(self.state_file.read_text())
            services = {name: ServiceState(**each) for name, each in found.pop("services").items()}
            return StackState(**found, services=services)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def running(self) -> StackState | None:
        """The state of a stack whose supervisor lives."""
        state = self.read()
        return None if state is None or is_dead(state.process) else state

    def write(self, state: StackState) -> None:
        """Replace the state at once, for whoever reads it meanwhile."""
        temporary = self.state_file.with_name(f".state.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(state), indent=1) + "\n")
        os.replace(temporary, self.state_file)


def _credentials(key: str, secret: str) -> str:
    return f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
