"""A node that does not see the folders is named before training starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.training.shared_folders import check_shared


class Cluster:
    """Ray's part of it: nodes, and tasks that run where their strategy says.

    unseen: node -> the beginning of the paths that are not mounted there.
    """

    def __init__(self, unseen: dict[str, str], alive: int = 2):
        self._unseen, self._alive = unseen, alive
        self.asked: list[str] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "NodeID": f"{number:056d}",
                "NodeManagerAddress": f"10.0.0.{number}",
                "Alive": number < self._alive,
            }
            for number in range(3)
        ]

    def remote(self, num_cpus: int, scheduling_strategy: Any) -> Callable[..., Any]:
        assert num_cpus == 0, "the workers may hold every CPU"
        node = scheduling_strategy.node_id

        def run(function: Callable[[list[str]], list[str]], paths: list[str]) -> list[str]:
            self.asked.append(node[-2:])
            hidden = self._unseen.get(node[-2:], "\0")
            there = [f"/not-mounted{path}" if path.startswith(hidden) else path for path in paths]
            return [path.removeprefix("/not-mounted") for path in function(there)]

        return lambda function: SimpleNamespace(remote=lambda paths: run(function, paths))

    def get(self, found: list[str]) -> list[str]:
        return found


def test_every_living_node_is_asked_and_nothing_is_left_behind(tmp_path: Path) -> None:
    cluster = Cluster({})
    check_shared(cluster, tmp_path / "work", [str(tmp_path)])
    assert cluster.asked == ["00", "01"]
    assert list((tmp_path / "work").iterdir()) == []


def test_one_node_is_not_asked(tmp_path: Path) -> None:
    cluster = Cluster({}, alive=1)
    check_shared(cluster, tmp_path / "work", [str(tmp_path / "missing")])
    assert cluster.asked == []
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("hidden", ["work", "data"])
def test_a_node_without_the_folder_is_named(tmp_path: Path, hidden: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    cluster = Cluster({"01": str(tmp_path / hidden)})
    with pytest.raises(GigaganError, match=rf"node 10\.0\.0\.1 .* does not see .*{hidden}, .* mounts"):
        check_shared(cluster, tmp_path / "work", [str(data)])
    assert list((tmp_path / "work").iterdir()) == []


def test_a_missing_input_is_found_by_the_real_question(tmp_path: Path) -> None:
    with pytest.raises(GigaganError, match=r"node 10\.0\.0\.0 .*gone"):
        check_shared(Cluster({}), tmp_path / "work", [str(tmp_path / "gone")])
