"""What a stage took, and the log it leaves."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gigagan_core import console
from gigagan_core.config.backend import HeldSettings, PriceSettings
from gigagan_core.config.base import Settings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.stages.usage import held_by, usage
from gigagan_core.store.store import open_store
from gigagan_core.tracking.entries import usage_metrics

SPEC = StageSpec("talk", kind="shard-set", module="gigagan_core.text")


class TalkSettings(Settings):
    word: str = "a"
    fails: bool = False


def talk(work: StageWork) -> Outcome:
    console.note(f"said {work.settings.word}")
    console.tell("(worker pid=7) \x1b[31mred")
    (work.output / "word.txt").write_text(work.settings.word)
    if work.settings.fails:
        raise GigaganError("no more words")
    return Outcome()


def make(store: Path, **settings: Any) -> Any:
    with RunContext.open(str(store)) as context:
        return materialise(SPEC, TalkSettings(**settings), {}, context, talk)


def test_hours_and_their_price() -> None:
    held = HeldSettings(cpus=8, gpus=2)
    assert usage(held, 1800, PriceSettings()) == {"cpu_hours": 4.0, "gpu_hours": 1.0}
    used = usage(held, 1800, PriceSettings(gpu_hour=2.5, cpu_hour=0.05, currency="EUR"))
    assert used["cost"] == pytest.approx(2.7)
    assert usage_metrics(used) == {"usage/cpu_hours": 4.0, "usage/gpu_hours": 1.0, "usage/cost_EUR": 2.7}
    assert "usage/cost_USD" not in usage_metrics(usage(held, 1800, PriceSettings()))


def test_a_training_holds_a_gpu_a_worker_and_scoring_the_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = SimpleNamespace(
        is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 16.0, "GPU": 4.0}
    )
    monkeypatch.setitem(sys.modules, "ray", cluster)
    assert held_by(SimpleNamespace(use_gpu=True, workers=3)).gpus == 3
    assert held_by(SimpleNamespace(use_gpu=True)).gpus == 1
    assert held_by(SimpleNamespace(gpus_per_task=0.5)) == HeldSettings(cpus=16, gpus=4)
    assert held_by(SimpleNamespace(gpus_per_task=0.0, use_gpu=False, workers=3)).gpus == 0


def test_the_log_lies_beside_the_artifact_and_decides_nothing(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    lines = (first.path / "stage.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["said a", "(worker pid=7) red"]
    (second.path / "stage.log").write_text("another")
    assert first.output_digest == second.output_digest
    assert set(first.manifest["files"]) == {"word.txt"}
    assert first.manifest["usage"]["gpu_hours"] == 0


def test_a_failed_stages_log_waits_in_its_work_folder_and_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(GigaganError):
            make(tmp_path / "store", fails=True)
    (log,) = (tmp_path / "store" / "_work").glob("*/stage.log")
    assert log.read_text().count("said a") == 2


def test_a_remote_store_keeps_the_log_too() -> None:
    with RunContext.open("memory://bucket/logs") as context:
        artifact = materialise(SPEC, TalkSettings(), {}, context, talk)
    assert b"said a" in open_store("memory://bucket/logs").fs.cat_file(f"{artifact.uri}/stage.log")


def test_a_listener_hears_bars_too_and_only_while_it_listens() -> None:
    heard: list[str] = []
    with console.heard_by(heard.append), console.progress("fetching [x]", total=2, unit="URLs") as bar:
        bar.advance(2)
    console.note("later")
    assert [line.partition(",")[0] for line in heard] == ["fetching [x]: 2/2 URLs"]
