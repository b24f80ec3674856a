"""What the machine does while a stage runs: MLflow's own samplers, through a run that survives MLflow's absence."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from gigagan_core.tracking.mlflow_run import StageRun

PREFIX = "system/"
"""Of the metrics' names: MLflow shows these on a page of their own."""
SECONDS = 10.0


@contextlib.contextmanager
def system_metrics(run: Any, seconds: float = SECONDS) -> Iterator[None]:
    """Inside, log processors, memory, disk, network and NVIDIA GPUs of this machine every so many seconds.

    run: a `StageRun`; with a run that keeps nothing, nothing is sampled. The step of these metrics is seconds.
    """
    if not isinstance(run, StageRun):
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_sample, args=(run, seconds, done), name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _sample(run: StageRun, seconds: float, done: threading.Event) -> None:
    samplers, started = _samplers(), time.monotonic()
    while not done.wait(seconds):
        figures: dict[str, float] = {}
        for sampler in samplers:
            sampler.collect_metrics()
            figures |= sampler.aggregate_metrics()
            sampler.clear_metrics()
        named = {PREFIX + name: value for name, value in figures.items()}
        run.log_metrics(named, step=int(time.monotonic() - started))


def _samplers() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    samplers: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    # Raises various kinds where there is no NVIDIA driver, or no library to ask it.
    with contextlib.suppress(Exception):
        samplers.append(GPUMonitor())
    return samplers
