"""Everything `gigagan serve` starts, and its end: Ray, the replicas, the front with its page.

The front (API, page, queue, retries) is one process, and asks the replicas through Ray Serve's handle. Serve's own HTTP
proxy is not started: it would be one more hop, and limits act best where the bytes arrive.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from gigagan_core import console, environment
from gigagan_core.config.serve import ServeSettings
from gigagan_core.errors import GigaganError
from gigagan_core.serving.models import ServedModels
from gigagan_core.stages.session import PoliteRaySession
from gigagan_core.text import plain

OnReady = Callable[[str, dict[str, Any]], None]
"""on_ready(address for a browser, facts of the model)."""

_END_SECONDS = 10
_FACTS_SECONDS = 60.0


def serve_until_stopped(models: ServedModels, settings: ServeSettings, on_ready: OnReady) -> None:
    """Serve until Ctrl-C or SIGTERM, then let what was accepted end, and stop what was started.

    Raises GigaganError for a port in use or a model that cannot be opened.
    """
    environment.set_defaults()
    with contextlib.ExitStack() as stack:
        # Taken first: a port in use is told at once, not after Ray's start.
        listener = stack.enter_context(_listening(settings))
        stack.enter_context(_folder_for_the_page())
        backend = stack.enter_context(replicas(models, settings))
        app = create(backend, settings)
        url = _url(settings.host, listener.getsockname()[1])
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=_END_SECONDS,
        )
        _Server(config, lambda: on_ready(url, backend.facts)).run(sockets=[listener])
        console.note("stopping")


def create(backend: Any, settings: ServeSettings) -> Any:
    """The ASGI application over a backend: API, and page where it is wanted."""
    from gigagan_core.serving.api import create_app
    from gigagan_core.serving.metrics import Metrics
    from gigagan_core.serving.studio import Studio

    studio = Studio(backend, settings.limits, Metrics())
    backend.on_retry = studio.metrics.retries.inc
    app = create_app(studio)
    if settings.page:
        from gigagan_core.serving.page import mount_page

        mount_page(app, studio)
    return app


@contextlib.contextmanager
def replicas(models: ServedModels, settings: ServeSettings) -> Iterator[Any]:
    """A backend of running replicas, in a Ray of this process or the one that RAY_ADDRESS names.

    Raises GigaganError where the model cannot be opened.
    """
    session = PoliteRaySession()
    try:
        ray = session.ray()
        from ray import serve

        from gigagan_core.serving.backend import ReplicaBackend
        from gigagan_core.serving.batches import BatchRules
        from gigagan_core.serving.replica import application

        cores = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        gpus = ray.cluster_resources().get("GPU", 0)
        name = f"gigagan-{secrets.token_hex(4)}"
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled", logging_config=quiet)
        deployed = application(models, settings, int(cores), int(gpus))
        try:
            try:
                handle = serve.run(deployed, name=name, route_prefix=None, logging_config=quiet)
            except RuntimeError as error:
                raise GigaganError(_reason(error, serve.status().applications.get(name))) from None
            facts = handle.facts.remote().result(timeout_s=_FACTS_SECONDS)
            del facts["process"]
            rules = BatchRules(
                settings.max_batch_size, settings.batch_wait_seconds, settings.replicas, settings.limits.tries
            )
            yield ReplicaBackend(handle, facts, name, rules)
        finally:
            # Also one that failed, which would be started again and again in somebody's cluster.
            serve.delete(name)
    finally:
        session.close()


def _reason(error: Exception, application: Any) -> str:
    """The sentence of a replica that did not start, from the traceback that Serve hands on as text.

    application: its status; some versions of Serve say more there than in the error. None where it has none.
    """
    deployments = application.deployments.values() if application else ()
    said = "\n".join([str(error), *(deployment.message for deployment in deployments)])
    sentences = re.findall(rf"{GigaganError.__name__}: (.+)", said)
    return sentences[-1].strip() if sentences else f"the replicas did not start: {plain(said, 2000)}"


class _Server(uvicorn.Server):
    """Tells when it serves. SIGTERM and Ctrl-C are the usual ways to end it, no failures."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            # Else they are raised again, now that the server has done what they asked for.
            self._captured_signals.clear()


@contextlib.contextmanager
def _listening(settings: ServeSettings) -> Iterator[socket.socket]:
    host, port = settings.host, settings.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise GigaganError(
            f"--host {host} is no address of this machine ({error.strerror}); name another"
        ) from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            # Taken for good: of two servers that start at once, the second is told now.
            listener.listen()
        except OSError as error:
            raise GigaganError(
                f"{host}:{port} cannot be listened on ({error.strerror}); choose another --port, or stop what uses it"
            ) from None
        if not ipaddress.ip_address(address[0]).is_loopback:
            console.warn(
                f"{host} is open to other machines: whoever reaches it may ask for pictures, without a password"
            )
        yield listener


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


@contextlib.contextmanager
def _folder_for_the_page() -> Iterator[None]:
    """Where Gradio keeps what it shows; nothing of it stays."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="gigagan-page-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before
