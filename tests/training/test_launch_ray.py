"""What the launcher on Ray decides by itself, without a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gigagan_core.training import launch_ray


def test_a_notice_that_a_node_goes_is_answered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.train

    notices = iter([None, None, "node 3 goes", "node 3 goes"])
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(notices))
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
    reporter = launch_ray._RayReporter(None, None, tmp_path)
    assert [reporter.should_save() for _ in range(4)] == [False, False, True, False]
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    on_one_machine = launch_ray._RayReporter(None, None, tmp_path)
    assert not on_one_machine.should_save(), "and it does not ask, which is a meeting of all workers"
    assert next(notices) == "node 3 goes"


def test_what_a_kill_left_of_a_checkpoint_is_removed_and_whole_ones_stay(tmp_path: Path) -> None:
    for name, meta in (
        ("checkpoint_whole", json.dumps({"sha256": "0"})),
        ("checkpoint_half", '{"sha'),
        ("checkpoint_new", None),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.pt").write_bytes(b"x")
        if meta is not None:
            (tmp_path / name / "checkpoint.json").write_text(meta)
    launch_ray._remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_whole"]
