"""Where partitions are fetched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gigagan_core.stages.partitions import tasks_may_leave


def cluster(*nodes: tuple[str, str, int, bool]) -> SimpleNamespace:
    """A Ray of nodes (id, address, CPUs, alive), whose driver is on node "head"."""
    listed = [
        {
            "NodeID": name,
            "NodeManagerAddress": address,
            "Resources": {"CPU": cores} if cores else {},
            "Alive": alive,
        }
        for name, address, cores, alive in nodes
    ]
    context = SimpleNamespace(get_node_id=lambda: "head")
    return SimpleNamespace(nodes=lambda: listed, get_runtime_context=lambda: context)


@pytest.mark.parametrize(
    ("nodes", "leave"),
    [
        ([("head", "10.0.0.1", 2, True)], False),
        # the nodes of `make stack`: several on one machine
        ([("head", "127.0.0.1", 0, True), ("a", "127.0.0.1", 1, True), ("b", "127.0.0.1", 1, True)], False),
        ([("head", "10.0.0.1", 2, True), ("dead", "10.0.0.2", 2, False)], False),
        ([("head", "10.0.0.1", 2, True), ("a", "10.0.0.2", 2, True)], True),
        # compose and KubeRay: the head lends no core
        ([("head", "10.0.0.1", 0, True), ("a", "10.0.0.2", 2, True)], True),
        # a standing cluster without workers
        ([("head", "10.0.0.1", 0, True)], True),
    ],
)
def test_tasks_may_leave_where_another_machine_has_cores_or_may_come(nodes, leave) -> None:
    assert tasks_may_leave(cluster(*nodes)) is leave
