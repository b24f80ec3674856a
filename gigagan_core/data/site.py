"""`OpenMojiSite`: the embedded web site as a context manager, in a process of its own."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import gigagan_core
from gigagan_core.data.faults import NO_FAULTS, FaultTable
from gigagan_core.data.openmoji import HOST
from gigagan_core.errors import GigaganError


class OpenMojiSite:
    """Serves the drawings on a free loopback port while the block runs.

    faults: True for the stated shares (`gigagan_core.data.faults`), False for none, or a table of one's own.
    port: 0 takes a free one.

    >>> with OpenMojiSite() as site:
    ...     fetch = FetchSettings(hosts=site.hosts)
    """

    def __init__(self, faults: bool | FaultTable = True, port: int = 0):
        self.faults = faults if isinstance(faults, FaultTable) else FaultTable() if faults else NO_FAULTS
        self._wanted_port = port
        self._process: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.port = 0

    @property
    def hosts(self) -> dict[str, str]:
        """Logical host -> address, for `FetchSettings.hosts`."""
        return {HOST: f"127.0.0.1:{self.port}"}

    def __enter__(self) -> OpenMojiSite:
        self._folder = tempfile.TemporaryDirectory(prefix="gigagan-site-")
        package_root = str(Path(gigagan_core.__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gigagan_core.data.site_server"),
                *("--faults", json.dumps(dataclasses.asdict(self.faults))),
                *("--log", str(self._log), "--port", str(self._wanted_port)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            # Ctrl-C is for the run; the site ends with it, when its standard input closes.
            start_new_session=True,
        )
        line = self._process.stdout.readline()
        if not line.strip().isdigit():
            self.__exit__(None, None, None)
            raise GigaganError(
                f"the embedded site did not start on port {self._wanted_port or '(a free one)'} of 127.0.0.1: "
                f"{line.strip() or 'its process died'}; give another port, or 0 for a free one"
            )
        self.port = int(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def requests(self) -> list[dict]:
        """Every request so far, in order: {"time", "url", "attempt", "fault"}; only inside the block."""
        if not self._log.exists():
            return []
        # The last line may be half written.
        lines = self._log.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def asked(self) -> dict[str, int]:
        """URL -> how often it was asked for."""
        return dict(collections.Counter(request["url"] for request in self.requests()))

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "requests.jsonl"
