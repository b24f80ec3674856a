"""Whether every node of a cluster sees the folders that training reads and writes."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gigagan_core.errors import GigaganError


def check_shared(ray: ModuleType, work: Path, inputs: Sequence[str]) -> None:
    """Raise GigaganError, naming node and path, where a node of a cluster misses the work folder or an input.

    ray: connected. work: this process's folder of the run; a file is written there for the others to find, for a path
    of the same name may be another disk. inputs: absolute paths. A cluster of one node is not asked.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    work.mkdir(parents=True, exist_ok=True)
    probe = work / f"seen-{uuid.uuid4().hex}"
    probe.touch()
    try:
        for node in nodes:
            missing = ray.get(_asked(ray, node["NodeID"]).remote([str(probe), *inputs]))
            if missing:
                path = work if missing[0] == str(probe) else missing[0]
                raise GigaganError(
                    f"node {node['NodeManagerAddress']} of the Ray cluster does not see {path}, which training on "
                    f"{len(nodes)} nodes needs; keep --store, and the folder that the command runs in, on a file "
                    "system that every node mounts at the same path"
                )
    finally:
        probe.unlink(missing_ok=True)


def _asked(ray: ModuleType, node_id: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=there)(_missing)


def _missing(paths: Sequence[str]) -> list[str]:
    """Those of the paths that this node does not see."""
    return [path for path in paths if not Path(path).exists()]
