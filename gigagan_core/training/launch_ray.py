"""The launcher on Ray: the same worker inside a Ray Train `TorchTrainer`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gigagan_core.errors import GigaganError
from gigagan_core.ray_nodes import offers_with_places
from gigagan_core.training.record import Event
from gigagan_core.training.rounds import give_up
from gigagan_core.training.shared_folders import check_shared
from gigagan_core.training.worker import TrainingJob, train

RUN_NAME = "train"
POLL_SECONDS = 0.5

# On one machine nothing is preempted, and each watcher is a process that imports all of Ray Train (about
# 5 s of CPU); a cluster keeps Ray's own defaults.
_PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
_LOCAL_SWITCHES = {
    _PREEMPTION_WATCHER: "0",
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
    A cluster that grows is given time to have room for them.
    Raises GigaganError where training cannot go on, or a node does not see folder or data.
    """
    if "RAY_ADDRESS" not in os.environ:
        for name, value in _LOCAL_SWITCHES.items():
            os.environ.setdefault(name, value)
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    use_gpu, restarts = job.settings.use_gpu, job.settings.max_restarts
    least = {"CPU": 1.0, "GPU": 1.0} if use_gpu else {"CPU": 1.0}
    nodes = offers_with_places(ray, least, workers, "training workers")
    resources = resources_per_worker(nodes, workers, use_gpu)
    check_shared(ray, folder, [path for path, _ in job.data])
    _remove_partial(folder / "ray" / RUN_NAME)
    relay = ray.remote(num_cpus=0)(_Relay).remote()
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"job": job, "relay": relay, "folder": str(folder)},
        torch_config=TorchConfig(backend=None if use_gpu else "gloo"),
        # Without resources_per_worker a CPU worker gets one CPU, and with it one OpenMP thread.
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=RUN_NAME,
            storage_path=str(folder / "ray"),
            checkpoint_config=CheckpointConfig(num_to_keep=job.settings.training.schedule.keep_checkpoints),
            failure_config=FailureConfig(max_failures=restarts),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
        validation_config=_validation(job, relay) if job.settings.validation_images else None,
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
            f"training in Ray failed {restarts + 1} times, last with: {_reason(error)}; finished checkpoints "
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


def _validation(job: TrainingJob, relay: Any) -> Any:
    """Ray Train's own validation: a task for every checkpoint, which training does not wait for."""
    from ray.train import ValidationConfig

    # The workers may hold every CPU of a small cluster.
    return ValidationConfig(fn=_Validation(job, relay), ray_remote_kwargs={"num_cpus": 0})


class _Validation:
    def __init__(self, job: TrainingJob, relay: Any):
        self._job, self._relay = job, relay

    def __call__(self, checkpoint: Any) -> dict[str, float]:
        import ray

        from gigagan_core.training.validation import validated

        with checkpoint.as_directory() as folder:
            event = validated(Path(folder), self._job)
        ray.get(self._relay.push.remote(event))
        return event.metrics


def resources_per_worker(
    nodes: Sequence[Mapping[str, float]], workers: int, use_gpu: bool
) -> dict[str, float]:
    """One GPU and a CPU each, or as many CPUs as all workers can have alike; a worker stands on one node.

    nodes: what each offers ("CPU", "GPU"). Raises GigaganError where the cluster has too few: Ray would wait for ever
    for what it does not have.
    """
    kind = "GPU" if use_gpu else "CPU"
    offered = [int(node.get(kind, 0)) for node in nodes]
    available = sum(offered)
    if available < workers:
        raise GigaganError(
            f"{workers} training workers need a {kind} each and the Ray cluster has {available}; set workers to "
            f"{max(available, 1)} or fewer, or add nodes"
        )
    if use_gpu:
        return {"CPU": 1, "GPU": 1}
    each = max(
        each for each in range(1, max(offered) + 1) if sum(cpus // each for cpus in offered) >= workers
    )
    return {"CPU": each}


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
    from gigagan_core.training.loop import NonFiniteError
    from gigagan_core.training.world import World

    job, world = config["job"], World.joined()
    reporter = _RayReporter(config["relay"], job, Path(config["folder"]))
    try:
        train(job, world, reporter)
    except NonFiniteError as error:
        # A restart would meet the same fault again, so the workers end in peace and the driver raises; all of them
        # see it.
        if world.rank == 0:
            reporter.failed(give_up(error))
    except GigaganError as error:
        # Of several workers, the others would wait for this one.
        if world.size > 1:
            raise
        reporter.failed(str(error))


class _RayReporter:
    """Checkpoints go through `ray.train.report`, which writes them in a thread while training goes on."""

    def __init__(self, relay: Any, job: TrainingJob, folder: Path):
        self._relay, self._job, self._folder = relay, job, folder
        self._written = threading.Event()
        self._written.set()
        self._reported = self._saved_for_preemption = False

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

    def rolled_back(self, images_seen: int, message: str, details: dict[str, Any]) -> None:
        self._push(Event("rolled_back", images_seen, message=message, details=json.dumps(details)))

    def failed(self, message: str) -> None:
        self._push(Event("failed", 0, message=message))

    def checkpoint(self, images_seen: int, write: Callable[[Path], None] | None) -> None:
        import ray.train

        # Every worker must report equally often: report() waits for all of them.
        figures, self._reported = {"images_seen": images_seen}, True
        if write is None:
            ray.train.report(figures, checkpoint=None, checkpoint_upload_mode=_in_background())
            return
        storage = ray.train.get_context().get_storage()
        self._written.clear()

        def upload(empty: Any, name: str) -> Any:
            try:
                return self._upload(storage, empty, name, images_seen, write)
            finally:
                self._written.set()

        ray.train.report(
            figures,
            checkpoint=ray.train.Checkpoint.from_directory(tempfile.mkdtemp(prefix="gigagan-checkpoint-")),
            checkpoint_upload_mode=_in_background(),
            checkpoint_upload_fn=upload,
            validation=bool(self._job.settings.validation_images),
        )

    def _upload(
        self, storage: Any, empty: Any, name: str, images_seen: int, write: Callable[[Path], None]
    ) -> Any:
        """Write into Ray's storage: at once where that is a folder, else by way of a local one."""
        import ray.train
        from pyarrow.fs import LocalFileSystem

        from gigagan_core.training.checkpoint import keep_milestone

        if isinstance(storage.storage_filesystem, LocalFileSystem):
            place = Path(storage.build_checkpoint_path_from_name(name))
            place.mkdir(parents=True)
            write(place)
            kept = ray.train.Checkpoint(str(place), storage.storage_filesystem)
        else:
            place = Path(empty.path)
            write(place)
            kept = storage.persist_current_checkpoint(empty, name)
        every = self._job.settings.training.schedule.keep_every_images
        keep_milestone(place, self._folder, images_seen, every)
        return kept

    def settle(self) -> None:
        self._written.wait()

    @contextlib.contextmanager
    def newest(self) -> Iterator[Path | None]:
        import ray.train

        if self._reported:
            # This process's own context knows rank 0's checkpoints on rank 0 only.
            committed = ray.train.CheckpointConsistencyMode.COMMITTED
            found = ray.train.get_all_reported_checkpoints(consistency_mode=committed)
            checkpoint = found[-1].checkpoint if found else None
        else:
            checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)

    def should_save(self) -> bool:
        import ray.train

        if self._saved_for_preemption or os.environ.get(_PREEMPTION_WATCHER) == "0":
            return False
        # As Ray advises: save and go on; when the node is gone, it restarts the workers from there.
        self._saved_for_preemption = ray.train.get_preemption_info() is not None
        return self._saved_for_preemption

    def should_stop(self) -> bool:
        return False


def _in_background() -> Any:
    import ray.train

    return ray.train.CheckpointUploadMode.ASYNC


def _remove_partial(run: Path) -> None:
    """Checkpoint folders that a kill has left unfinished."""
    from gigagan_core.training.checkpoint import read_meta

    for folder in run.glob("checkpoint_*"):
        if folder.is_dir() and read_meta(folder) is None:
            shutil.rmtree(folder)


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
