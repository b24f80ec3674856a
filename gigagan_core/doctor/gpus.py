"""GPUs: whether torch sees them, what fits on them, and whether they talk to each other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gigagan_core.doctor.finding import Finding, fail, ok, warn
from gigagan_core.doctor.request import Part, Request

DRIVER = Path("/proc/driver/nvidia/version")
ALL_REDUCE_SECONDS = 120.0


@dataclass(frozen=True)
class Gpu:
    """name: as the driver calls it. memory, free: bytes."""

    name: str
    memory: int
    free: int


def seen() -> list[Gpu]:
    """The GPUs that torch sees."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = []
    for number in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(number)
        found.append(Gpu(torch.cuda.get_device_name(number), whole, free))
    return found


def present(request: Request) -> Iterator[Finding]:
    """Torch, its CUDA and the driver; GPUs where the preset trains on them."""
    import torch

    build = f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}"
    gpus = seen()
    driver = DRIVER.is_file()
    if gpus:
        names = ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
        yield ok("gpus", f"{len(gpus)} ({names}), {build}")
        busy = [number for number, gpu in enumerate(gpus) if gpu.free < 0.9 * gpu.memory]
        if busy:
            yield warn(
                "gpus",
                f"GPU {', '.join(map(str, busy))}: more than a tenth of the memory is taken",
                "see `nvidia-smi` for who has it",
            )
    elif driver and torch.version.cuda:
        yield fail(
            "gpus",
            f"a driver is there and torch sees no GPU ({build})",
            "look at CUDA_VISIBLE_DEVICES, and that the driver is as new as this CUDA needs",
        )
    elif request.wants_gpu() and request.backend == "local":
        yield fail(
            "gpus",
            f"preset {request.preset} trains on GPUs and torch sees none ({build})",
            "take a machine with GPUs, --backend ray-job or kuberay, or a preset for CPUs such as demo",
        )
    else:
        yield ok("gpus", f"none, and none is needed here ({build})")


def fits(request: Request) -> Iterator[Finding]:
    """Each training of the preset on this machine's GPUs, as `gigagan plan` counts it."""
    gpus = seen()
    if not gpus or not request.wants_gpu():
        return
    if not request.plan:
        yield ok("gpu memory", "not counted, as --no-plan says")
        return
    for part, settings in request.trainings().items():
        if settings.use_gpu:
            yield _fit(request, part, len(gpus), min(gpu.memory for gpu in gpus))


def _fit(request: Request, part: Part, gpus: int, memory: int) -> Finding:
    from gigagan_core.cli.plan_commands import configuration, planned
    from gigagan_core.config.plan import PlanSettings

    name = f"gpu memory, {part}"
    configured = request.trainings()[part]
    batch, wanted = configured.training.schedule.batch_size, configured.workers
    used = max(number for number in range(1, gpus + 1) if batch % number == 0)
    settings, frozen = configuration(request.preset, part, None, None, [])
    assumed = PlanSettings(gpu_memory=memory / 2**30)
    (document,) = planned(settings, frozen, (used,), assumed)["plans"]
    layout = document.get(settings.training.schedule.parallelism, document["replicated"])
    if not layout["fits"]:
        return fail(
            name,
            f"a step does not fit into {memory / 2**30:.0f} GiB on {used} GPUs, at the smallest micro-batch either",
            f"see `gigagan plan --preset {request.preset} --part {part} --gpus {used}` for what takes the room",
        )
    micro = layout["time"]["micro_batch"]
    room = f"micro-batches of up to {micro} fit into {memory / 2**30:.0f} GiB"
    if wanted > gpus:
        return warn(
            name,
            f"the preset has {wanted} workers and this machine {gpus} GPUs; with {used}, {room}",
            f"--set {part}.workers={used} --set {part}.training.schedule.micro_batch_size={micro}",
        )
    own = configured.training.schedule.micro_batch_size or batch // wanted
    if own > micro:
        return fail(
            name,
            f"samples of {own} at a time do not fit; {room}",
            f"--set {part}.training.schedule.micro_batch_size={micro}",
        )
    return ok(name, room)


def talk(backend: str = "nccl", ranks: int | None = None) -> Iterator[Finding]:
    """A small sum over all GPUs, in processes of their own. backend, ranks: for a machine without GPUs."""
    ranks = len(seen()) if ranks is None else ranks
    if ranks < 2:
        return
    command = [sys.executable, "-m", "gigagan_core.doctor.all_reduce", backend, str(ranks)]
    mend = "run it with NCCL_DEBUG=INFO: " + " ".join(["python", *command[1:]])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ALL_REDUCE_SECONDS)
    except subprocess.TimeoutExpired:
        yield fail(backend, f"{ranks} processes did not agree on a sum in {ALL_REDUCE_SECONDS:.0f} s", mend)
        return
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or ["no word"]
        yield fail(backend, f"a sum over {ranks} processes failed: {said[0][:300]}", mend)
    else:
        yield ok(backend, f"{ranks} processes agree on a sum, {done.stdout.strip()}")
