"""Counting the nodes of a Ray cluster, and waiting for more of them where it grows."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from gigagan_core import console, environment, ray_nodes
from gigagan_core.errors import GigaganError
from gigagan_core.ray_nodes import offers_with_places, places

PATIENCE = "GIGAGAN_RAY_NODE_PATIENCE_S"
GPU_WORKER = {"CPU": 1.0, "GPU": 1.0}


class GrowingRay:
    """Ray's calls that the wait makes. growth: node by node, what each look at the cluster finds new.

    asked: bundles for which a placement group stands; ever: for which one was made.
    """

    def __init__(self, *growth: list[dict[str, float]]) -> None:
        self._growth = list(growth)
        self._nodes: list[dict[str, float]] = [{}]  # a head that takes no work
        self.asked: list[Any] = []
        self.ever: list[dict[str, float]] = []
        self.util = SimpleNamespace(
            placement_group=self._placement_group, remove_placement_group=self._remove
        )

    def nodes(self) -> list[dict[str, Any]]:
        self._nodes += self._growth.pop(0) if self._growth else []
        dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [dead, *({"Alive": True, "Resources": each} for each in self._nodes)]

    def _placement_group(self, bundles: list[dict[str, float]]) -> object:
        (bundle,) = bundles
        group = object()
        self.ever.append(bundle)
        self.asked.append(group)
        return group

    def _remove(self, group: object) -> None:
        self.asked.remove(group)


def grown(ray: GrowingRay, bundle: dict[str, float], count: int) -> list[dict[str, float]]:
    return offers_with_places(cast(ModuleType, ray), bundle, count, "training workers")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were slept, one after another; nobody waits for them."""
    slept: list[float] = []
    monkeypatch.setattr(
        ray_nodes, "time", SimpleNamespace(sleep=slept.append, monotonic=lambda: 1000.0 + sum(slept))
    )
    return slept


@pytest.fixture
def said() -> Any:
    lines: list[str] = []
    with console.heard_by(lines.append):
        yield lines


@pytest.mark.parametrize(
    ("nodes", "bundle", "count"),
    [
        ([], {"CPU": 1.0}, 0),
        ([{}, {"CPU": 2.0}, {"CPU": 1.0}], {"CPU": 1.0}, 3),
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 2.0}, 2),
        ([{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}], GPU_WORKER, 2),
        ([{"CPU": 8.0}, {"GPU": 2.0}], GPU_WORKER, 0),
        ([{"CPU": 8.0, "GPU": 1.0}], {"CPU": 1.0, "GPU": 0.25}, 4),
        ([{"CPU": 8.0}], {"CPU": 0.5, "GPU": 0.0}, 16),
    ],
)
def test_a_bundle_stands_on_one_node(
    nodes: list[dict[str, float]], bundle: dict[str, float], count: int
) -> None:
    assert places(nodes, bundle) == count


def test_a_cluster_that_does_not_grow_is_asked_for_nothing(clock: list[float], said: list[str]) -> None:
    ray = GrowingRay([], [{"CPU": 8.0}])
    assert grown(ray, {"CPU": 1.0}, 2) == [{}]
    assert (ray.ever, clock, said) == ([], [], [])


def test_nodes_that_suffice_are_not_asked_for(
    clock: list[float], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "60")
    ray = GrowingRay([{"CPU": 8.0, "GPU": 2.0}])
    assert grown(ray, GPU_WORKER, 2) == [{}, {"CPU": 8.0, "GPU": 2.0}]
    assert (ray.ever, clock, said) == ([], [], [])


def test_a_growing_cluster_is_asked_and_waited_for_until_there_is_room(
    clock: list[float], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "60")
    node = {"CPU": 8.0, "GPU": 2.0}
    ray = GrowingRay([], [], [node], [{"CPU": 8.0}], [node], [node])
    assert grown(ray, {**GPU_WORKER, "memory": 0.0}, 4) == [{}, node, {"CPU": 8.0}, node]
    assert ray.ever == [GPU_WORKER] * 4, "a group for each place, and none for nothing"
    assert ray.asked == [], "the request ends with the wait"
    assert len(clock) == 4
    (line,) = said
    assert "training workers: 4 times 1 CPU and 1 GPU wanted" in line
    assert "room for 0" in line
    assert "up to 60 s" in line


def test_the_wait_ends_with_the_patience_and_so_does_the_request(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "60")
    ray = GrowingRay([], [], [{"CPU": 1.0}])
    assert grown(ray, {"CPU": 1.0}, 2) == [{}, {"CPU": 1.0}]
    assert 60 <= sum(clock) < 60 + 2 * ray_nodes.POLL_SECONDS
    assert len(ray.ever) == 2
    assert ray.asked == []


def test_the_request_ends_when_the_wait_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "60")

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ray_nodes.time, "sleep", interrupted)
    ray = GrowingRay()
    with pytest.raises(KeyboardInterrupt):
        grown(ray, {"CPU": 1.0}, 2)
    assert len(ray.ever) == 2
    assert ray.asked == []


@pytest.mark.parametrize("given", ["soon", "-1", "inf", "nan", ""])
def test_a_patience_that_is_no_number_of_seconds_is_one_sentence(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, given)
    with pytest.raises(GigaganError, match=f"{PATIENCE} '{given}' is no number of seconds; give such as 900"):
        environment.ray_node_patience()


def test_training_counts_the_nodes_that_it_has_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from gigagan_core.training import launch_ray

    asked: list[tuple] = []

    class Enough(Exception):
        pass

    def stand_in(ray: object, bundle: dict, count: int, what: str) -> list[dict[str, float]]:
        asked.append((bundle, count))
        return [{"CPU": 8.0, "GPU": 2.0}]

    def counted(nodes: list, workers: int, use_gpu: bool) -> dict:
        assert nodes == [{"CPU": 8.0, "GPU": 2.0}]
        raise Enough

    monkeypatch.setenv("RAY_ADDRESS", "there")
    monkeypatch.setattr(launch_ray, "offers_with_places", stand_in)
    monkeypatch.setattr(launch_ray, "resources_per_worker", counted)
    # Its look at the folders needs the nodes, too.
    monkeypatch.setattr(launch_ray, "check_shared", lambda *_: pytest.fail("before the nodes came"))
    for use_gpu in (False, True):
        job: Any = SimpleNamespace(settings=SimpleNamespace(use_gpu=use_gpu, max_restarts=0), data=())
        with pytest.raises(Enough):
            launch_ray.launch(job, cast(Any, None), cast(Callable, None), cast(ModuleType, None), workers=3)
    assert asked == [({"CPU": 1.0}, 3), (GPU_WORKER, 3)]
