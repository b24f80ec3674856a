"""What a training worker asks of a Ray cluster: never more than one node has, or Ray would wait for ever."""

from __future__ import annotations

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.training.launch_ray import resources_per_worker


@pytest.mark.parametrize(
    ("cpus", "workers", "each"),
    [
        ((2,), 1, 2),
        ((2,), 2, 1),
        ((0, 1, 1), 1, 1),
        ((0, 1, 1), 2, 1),
        ((8, 4), 1, 8),
        ((8, 4), 3, 4),
        ((8, 4), 5, 2),
    ],
)
def test_a_worker_gets_as_many_cpus_as_fit_on_a_node(cpus: tuple[int, ...], workers: int, each: int) -> None:
    nodes = [{"CPU": float(number)} if number else {} for number in cpus]
    assert resources_per_worker(nodes, workers, use_gpu=False) == {"CPU": each}


def test_a_gpu_worker_gets_one() -> None:
    nodes = [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}]
    assert resources_per_worker(nodes, 2, use_gpu=True) == {"CPU": 1, "GPU": 1}
    with pytest.raises(GigaganError, match="3 training workers need a GPU each and the Ray cluster has 2"):
        resources_per_worker(nodes, 3, use_gpu=True)


def test_more_workers_than_cpus_is_one_sentence() -> None:
    with pytest.raises(GigaganError, match=r"the Ray cluster has 0; set workers to 1 or fewer"):
        resources_per_worker([{}], 1, use_gpu=False)
