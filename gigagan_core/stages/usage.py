"""What a stage held while it ran, in CPU-hours and GPU-hours, and what that cost."""

from __future__ import annotations

import os
import sys
from typing import Any

from gigagan_core.config.backend import HeldSettings, PriceSettings


def held_by(settings: Any) -> HeldSettings:
    """CPUs and GPUs that a stage of this process holds: all CPUs of its Ray cluster or else of this machine; the GPUs
    of its training workers, or the cluster's where its Ray tasks ask for GPUs.
    """
    cluster = _cluster()
    cpus = cluster.get("CPU") or float(len(os.sched_getaffinity(0)))
    if getattr(settings, "use_gpu", False):
        return HeldSettings(cpus=cpus, gpus=float(getattr(settings, "workers", 1)))
    asks = getattr(settings, "gpus_per_task", 0.0) > 0
    return HeldSettings(cpus=cpus, gpus=cluster.get("GPU", 0.0) if asks else 0.0)


def usage(held: HeldSettings, seconds: float, prices: PriceSettings) -> dict[str, Any]:
    """Hours, and their cost where a price is known, as a manifest keeps them."""
    hours = seconds / 3600
    used: dict[str, Any] = {
        "cpu_hours": float(f"{held.cpus * hours:.4g}"),
        "gpu_hours": float(f"{held.gpus * hours:.4g}"),
    }
    cost = used["cpu_hours"] * prices.cpu_hour + used["gpu_hours"] * prices.gpu_hour
    if prices.cpu_hour or prices.gpu_hour:
        used |= {"cost": float(f"{cost:.4g}"), "currency": prices.currency}
    return used


def _cluster() -> dict[str, float]:
    """The resources of the Ray that this process is connected to; nothing is imported or started for it."""
    ray = sys.modules.get("ray")
    return ray.cluster_resources() if ray is not None and ray.is_initialized() else {}
