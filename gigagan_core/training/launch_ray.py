"""The launcher on Ray: the same worker inside a Ray Train `TorchTrainer`."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from gigagan_core.errors import GigaganError
from gigagan_core.training.record import Event
from gigagan_core.training.worker import TrainingJob, train

RUN_NAME = "train"
POLL_SECONDS = 0.5
MAX_FAILURES = 2

# On one machine nothing is preempted, and each watcher is a process that imports all of Ray Train (about
# 5 s of CPU); a cluster keeps Ray's own defaults.
_LOCAL_SWITCHES = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}


def launch(
    job: TrainingJob, folder: Path, on_event: Callable[[Event], None], ray: ModuleType, workers: int = 1
) -> Path:
    """Train with Ray Train and return the last checkpoint's folder.

    folder: absolute; Ray Train keeps its run under ``ray/``, and goes on from the newest checkpoint there,
    also in a new process. ray: connected. workers: training workers; they share the cluster's CPUs (or
    take one GPU each). on_event: called from another thread with news as they come.
    Raises GigaganError where training cannot go on.
    """
    if "RAY_ADDRESS" not in os.environ:
        for name, value in _LOCAL_SWITCHES.items():
            os.environ.setdefault(name, value)
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    use_gpu = job.settings.use_gpu
    resources = _resources_per_worker(ray.cluster_resources(), workers, use_gpu)
    relay = ray.remote(num_cpus=0)(_Relay).remote()
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"job": job, "relay": relay},
        torch_config=TorchConfig(backend=None if use_gpu else "gloo"),
        # Without resources_per_worker a CPU worker gets one CPU, and with it one OpenMP thread.
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=RUN_NAME,
            storage_path=str(folder / "ray"),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    failures: list[str] = []

    def handle(event: Event) -> None:
        if event.kind == "failed":
            failures.append(event.message)
        else:
            on_event(event)

    try:
        with _relayed(ray, relay, handle):
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise GigaganError(
            f"training in Ray failed {MAX_FAILURES + 1} times, last with: {_reason(error)}; finished checkpoints "
            "are kept, so the same command goes on from the last one"
        ) from error
    finally:
        ray.kill(relay)
    if failures:
        raise GigaganError(failures[0])
    if result.checkpoint is None:
        raise GigaganError(
            f"training in Ray ended without a checkpoint; Ray's logs are under {folder / 'ray'}"
        )
    return Path(result.checkpoint.path)


def _resources_per_worker(cluster: dict[str, float], workers: int, use_gpu: bool) -> dict[str, float]:
    """All CPUs shared out, or one GPU and a CPU each. Raises GigaganError where the cluster has too few.

    Ray would wait for ever for what it does not have.
    """
    kind = "GPU" if use_gpu else "CPU"
    available = int(cluster.get(kind, 0))
    if available < workers:
        raise GigaganError(
            f"{workers} training workers need a {kind} each and the Ray cluster has {available}; set workers to "
            f"{max(available, 1)} or fewer, or add nodes"
        )
    return {"CPU": 1, "GPU": 1} if use_gpu else {"CPU": available // workers}


class _Relay:
    """An actor that carries news from rank 0 to the driver, which shows and records them."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def push(self, event: Event) -> None:
        self._events.append(event)

    def drain(self) -> list[Event]:
        events, self._events = self._events, []
        return events


@contextlib.contextmanager
def _relayed(ray: ModuleType, relay: Any, handle: Callable[[Event], None]) -> Iterator[None]:
    """While the block runs, hand the relay's events to `handle` in another thread; the last ones at the end."""
    done = threading.Event()
    errors: list[BaseException] = []

    def poll() -> None:
        try:
            while not done.wait(POLL_SECONDS):
                for event in ray.get(relay.drain.remote()):
                    handle(event)
        except BaseException as error:  # raised again below, in the thread that can act on it
            errors.append(error)

    thread = threading.Thread(target=poll, name="training-news", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    for event in ray.get(relay.drain.remote()):
        handle(event)
    if errors:
        raise errors[0]


def _train_worker(config: dict[str, Any]) -> None:
    """Ray Train's train function."""
    import ray.train

    from gigagan_core.training.loop import NonFiniteError
    from gigagan_core.training.world import World

    world = World.joined()
    reporter = _RayReporter(config["relay"])
    try:
        with contextlib.ExitStack() as stack:
            checkpoint = ray.train.get_checkpoint()
            resume_from = Path(stack.enter_context(checkpoint.as_directory())) if checkpoint else None
            train(config["job"], world, reporter, resume_from)
    except (NonFiniteError, GigaganError) as error:
        # A restart would meet the same fault again, so the worker ends in peace and the driver raises. With
        # several workers only a fault that all of them see may do so: the others would wait for this one.
        if world.size > 1 and not isinstance(error, NonFiniteError):
            raise
        reporter.failed(str(error))


class _RayReporter:
    def __init__(self, relay: Any):
        self._relay = relay

    def _push(self, event: Event) -> None:
        import ray

        # Waits, so that news are with the driver's relay before a checkpoint says that they are past.
        ray.get(self._relay.push.remote(event))

    def started(self, images_seen: int) -> None:
        self._push(Event("started", images_seen))

    def metrics(self, images_seen: int, metrics: dict[str, float]) -> None:
        self._push(Event("metrics", images_seen, metrics=metrics))

    def sample(self, images_seen: int, png: bytes) -> None:
        self._push(Event("sample", images_seen, png=png))

    def failed(self, message: str) -> None:
        self._push(Event("failed", 0, message=message))

    def checkpoint(self, images_seen: int, write: Callable[[Path], None] | None) -> None:
        import ray.train

        # Every worker must report equally often: report() waits for all of them.
        figures = {"images_seen": images_seen}
        if write is None:
            ray.train.report(figures, checkpoint=None)
            return
        with tempfile.TemporaryDirectory(prefix="gigagan-checkpoint-") as local:
            write(Path(local))
            ray.train.report(figures, checkpoint=ray.train.Checkpoint.from_directory(local))

    def should_stop(self) -> bool:
        return False


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
