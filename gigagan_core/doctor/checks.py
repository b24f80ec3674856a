"""All checks of a visit, in the order in which they are shown."""

from __future__ import annotations

from functools import partial

from gigagan_core.doctor import gpus, kubernetes_api, machine, services, storage, weights
from gigagan_core.doctor.finding import Check
from gigagan_core.doctor.request import Request


def checks(request: Request) -> list[tuple[str, Check]]:
    """Named checks; none of them starts, changes or downloads anything, but for a probe in the store."""
    return [
        ("python", machine.python),
        ("packages", machine.packages),
        ("cores", machine.cores),
        ("memory", machine.memory),
        ("shared memory", machine.shared_memory),
        ("open files", machine.open_files),
        ("gpus", partial(gpus.present, request)),
        ("gpu memory", partial(gpus.fits, request)),
        ("nccl", gpus.talk),
        ("store", partial(storage.probed, request)),
        ("disk", partial(storage.room, request)),
        ("weights", partial(weights.weights, request)),
        ("prefect", services.prefect),
        ("mlflow", services.mlflow),
        ("ray", partial(services.ray, request)),
        ("kubernetes", partial(kubernetes_api.kubernetes, request)),
    ]
