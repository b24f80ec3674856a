"""The local backend: this process is the Ray driver, one `ray.init` a pipeline run, on first need."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from gigagan_core import console, environment
from gigagan_core.errors import GigaganError

DASHBOARD_PORT = 8265
START_TRIES = 3
_chosen: dict[int, socket.socket] = {}
"""Ports that this process has chosen, each with what tells other processes so."""


class RaySession:
    """Starts or joins Ray when first asked, and stops what it started.

    With `RAY_ADDRESS` in the environment it joins that cluster and leaves it running.
    """

    def __init__(self, num_cpus: int | None = None, dashboard: bool = False):
        self._num_cpus = num_cpus or len(os.sched_getaffinity(0))
        self._dashboard = dashboard
        self._started = False
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def ray(self) -> ModuleType:
        """The ray module, connected; from any thread. Raises GigaganError when a given cluster cannot be joined."""
        environment.set_defaults()
        import ray

        with self._lock:
            if not ray.is_initialized():
                self._connect(ray)
        return ray

    def _connect(self, ray: ModuleType) -> None:
        address = os.environ.get("RAY_ADDRESS")
        quiet = {"logging_level": logging.ERROR, "configure_logging": True}
        if address:
            try:
                ray.init(address=address, **quiet)
                _hear_workers(shown=True)
            except Exception as error:  # ray raises many kinds
                raise GigaganError(
                    f"Ray cluster {address} (RAY_ADDRESS) cannot be joined: {error}; start it or unset RAY_ADDRESS"
                ) from error
        else:
            self._start(ray, quiet)
            # What workers print goes into the logs alone: Ray Train's chatter would tear the progress bars, and what
            # goes wrong in a worker reaches the driver as an exception.
            _hear_workers(shown=False)
        self._started = not address

    def _start(self, ray: ModuleType, quiet: dict) -> None:
        options: dict = {"include_dashboard": self._dashboard}
        if self._dashboard:
            port = free_port(DASHBOARD_PORT)
            options |= {"dashboard_host": "127.0.0.1", "dashboard_port": port}
            console.note(
                f"Ray dashboard: http://127.0.0.1:{port}"
                + ("" if port == DASHBOARD_PORT else f" (port {DASHBOARD_PORT} is taken)")
            )
        # Ray puts Unix sockets below its folder, and their paths may have 107 bytes: keep it short.
        folder = Path(tempfile.gettempdir()) / "ray"
        if len(str(folder)) > 40:
            folder = Path("/tmp/ray")
        self._init_in_own_thread(
            ray,
            # Without a word Ray joins what the last `ray start` of this machine has left in a file, living or dead.
            address="local",
            num_cpus=self._num_cpus,
            _temp_dir=str(folder),
            # The object store only carries small results here; its default takes 30% of the memory.
            object_store_memory=256 * 2**20,
            **options,
            **quiet,
        )

    def _init_in_own_thread(self, ray: ModuleType, **options: Any) -> None:
        """`ray.init` in a thread that lives until `close`, tried again when a busy machine starts Ray too slowly.

        The kernel ends Ray's processes with the thread that started them, not with the process, and a stage may
        run in a short-lived one: Prefect gives each task a thread.
        """
        failures: list[Exception] = []
        ready = threading.Event()

        def run() -> None:
            for attempt in range(START_TRIES):
                try:
                    ray.init(**options)
                    break
                except Exception as error:  # ray raises many kinds for a start that took too long
                    ray.shutdown()
                    if attempt == START_TRIES - 1:
                        failures.append(error)
                    else:
                        console.note(f"Ray did not start in time ({type(error).__name__}); trying again")
            ready.set()
            self._stop.wait()

        self._stop.clear()
        threading.Thread(target=run, name="ray-session", daemon=True).start()
        ready.wait()
        if failures:
            self._stop.set()
            raise GigaganError(
                f"Ray did not start in {START_TRIES} tries: {failures[0]}; is the machine overloaded or out of memory?"
            ) from failures[0]

    def close(self) -> None:
        """Stop Ray if this session started it."""
        if self._started:
            import ray

            ray.shutdown()
            self._stop.set()
            self._started = False


def _hear_workers(shown: bool) -> None:
    """Give the console's listeners what Ray's workers print. shown: on this process's output, too.

    Ray has no public way to it; should this one go, workers' lines are in Ray's own files only.
    """
    try:
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as streams
    except ImportError:
        return
    streams.remove_handler("gigagan")
    streams.add_handler("gigagan", _tell_worker_lines)
    if not shown:
        streams.remove_handler("ray_print_logs")


def _tell_worker_lines(batch: Mapping[str, Any]) -> None:
    who = batch.get("actor_name") or batch.get("task_name") or "worker"
    for line in batch["lines"]:
        console.tell(f"({who} pid={batch.get('pid')}) {line}")


def free_port(wanted: int, host: str = "127.0.0.1", tries: int = 50) -> int:
    """`wanted`, or the next port above it that nothing listens on and no other process of ours has chosen.

    A server listens seconds after its port was chosen, so the choice is known to others until this process ends.
    Raises GigaganError after `tries` taken ports.
    """
    for port in range(wanted, wanted + tries):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
        if _choose(port):
            return port
    raise GigaganError(f"ports {wanted} to {wanted + tries - 1} on {host} are all taken; free one of them")


def _choose(port: int) -> bool:
    """Whether this process has the port now, or had it already; False where another one has."""
    if port in _chosen:
        return True
    # A name of Linux's abstract namespace (unix(7)): no file, gone with the process, one for each network namespace.
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0gigagan/port/{port}")
    except OSError:
        claim.close()
        return False
    _chosen[port] = claim
    return True


def any_port(host: str = "127.0.0.1") -> int:
    """A port that the system chooses, for a server nobody looks at.

    Two runs that start together would both find the same next free one, and the slower would end up talking to the
    other's server.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
