"""The nodes of a Ray cluster, and more of them where it grows.

A cluster whose nodes come and go may have none until something asks; whoever counts nodes asks for them first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import ModuleType

from gigagan_core import console, environment

POLL_SECONDS = 2.0


def offers(ray: ModuleType) -> list[dict[str, float]]:
    """What each living node offers, such as {"CPU": 8.0, "GPU": 1.0}. ray: connected."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def places(nodes: Iterable[Mapping[str, float]], bundle: Mapping[str, float]) -> int:
    """How many bundles of resources, such as {"CPU": 1.0}, the nodes have room for; each stands on one node."""
    return sum(
        min(int(node.get(kind, 0.0) / amount) for kind, amount in bundle.items() if amount) for node in nodes
    )


def offers_with_places(
    ray: ModuleType, bundle: Mapping[str, float], count: int, what: str
) -> list[dict[str, float]]:
    """What each living node offers, once there is room for `count` bundles or the wait for more nodes is over.

    Where the cluster grows (`environment.ray_node_patience`), its autoscaler is asked for that room as long as the wait
    lasts. The caller must still look whether it came. what: needs it, for the line on the console.
    """
    nodes, patience = offers(ray), environment.ray_node_patience()
    if places(nodes, bundle) >= count or not patience:
        return nodes
    wanted = {kind: amount for kind, amount in bundle.items() if amount}
    written = " and ".join(f"{amount:g} {kind}" for kind, amount in wanted.items())
    console.note(
        f"{what}: {count} times {written} wanted, and the Ray cluster has room for {places(nodes, bundle)}; it is "
        f"asked for more nodes, which may take up to {patience:.0f} s"
    )
    deadline = time.monotonic() + patience
    # Placement groups, which go with their driver. `request_resources` is one for all jobs: another one's takes its
    # place, and a driver that is killed leaves it, and its nodes, for ever. A group each, since a group that cannot
    # be whole gets nothing.
    asked = [ray.util.placement_group([wanted]) for _ in range(count)]
    try:
        while places(nodes, bundle) < count and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            nodes = offers(ray)
    finally:
        for group in asked:
            ray.util.remove_placement_group(group)
    return nodes
