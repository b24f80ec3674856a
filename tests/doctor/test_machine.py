"""The machine and its GPUs, each thing broken on purpose."""

from __future__ import annotations

import importlib.metadata
import resource
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from gigagan_core.cli import plan_commands
from gigagan_core.config.base import with_overrides
from gigagan_core.config.presets import section
from gigagan_core.doctor import gpus, machine
from gigagan_core.doctor.gpus import Gpu
from gigagan_core.doctor.request import Request

from .conftest import one, statuses

Usage = namedtuple("Usage", "total used free")
LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"


def test_this_environment_is_as_the_lock_pins_it() -> None:
    assert one(machine.python()).status == "ok"
    found = one(machine.packages(LOCK))
    assert found.status == "ok", found


def test_another_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.13.1")
    found = one(machine.python())
    assert (found.status, found.what) == ("fail", "Python 3.13.1, and <3.13,>=3.11 is needed")


def with_versions(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    version = importlib.metadata.version

    def other(name: str) -> str:
        if name in changed:
            if changed[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return changed[name]
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", other)


def test_a_wrong_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, fastapi="0.152.0", ray=None)
    found = one(machine.packages(LOCK))
    assert found.status == "fail"
    assert "ray is missing (wanted <2.61,>=2.60)" in found.what
    assert "fastapi 0.152.0 (wanted <0.151,>=0.139)" in found.what


def test_a_package_off_its_pin_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    pin = importlib.metadata.version("aiohappyeyeballs")
    with_versions(monkeypatch, aiohappyeyeballs="0.0.1")
    found = one(machine.packages(LOCK))
    assert found.status == "warn"
    assert found.what == f"not as the lock pins them: aiohappyeyeballs 0.0.1 (wanted =={pin})"


def test_the_shadowing_backport_is_found_and_a_missing_lock_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_versions(monkeypatch, dataclasses="0.8")
    found = list(machine.packages(tmp_path / "requirements.lock"))
    assert statuses(found) == ["fail", "warn"]
    assert found[0].mend == "pip uninstall dataclasses"


@pytest.mark.parametrize(("gib", "status"), [(1.0, "fail"), (3.0, "warn"), (8.0, "ok")])
def test_memory(monkeypatch: pytest.MonkeyPatch, gib: float, status: str) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: int(gib * 2**30))
    assert one(machine.memory()).status == status


def test_the_memory_that_is_available_is_that_of_this_machine() -> None:
    assert 2**20 < machine.available_memory() < 2**45


@pytest.mark.parametrize(("mib", "status"), [(64, "warn"), (1000, "ok")])
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, mib: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, mib * 2**20))
    assert one(machine.shared_memory()).status == status


def test_shared_memory_that_is_not_mounted(tmp_path: Path) -> None:
    assert one(machine.shared_memory(str(tmp_path / "shm"))).status == "fail"


@pytest.mark.parametrize(("limit", "status"), [(256, "fail"), (1024, "warn"), (65536, "ok"), (-1, "ok")])
def test_open_files(monkeypatch: pytest.MonkeyPatch, limit: int, status: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert one(machine.open_files()).status == status


def gpus_of(monkeypatch: pytest.MonkeyPatch, count: int, gib: float, free: float = 1.0) -> None:
    memory = int(gib * 2**30)
    monkeypatch.setattr(gpus, "seen", lambda: [Gpu("NVIDIA H100", memory, int(free * memory))] * count)


def test_a_preset_for_gpus_needs_some_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus_of(monkeypatch, 0, 0)
    assert one(gpus.present(Request("demo"))).status == "ok"
    assert one(gpus.present(Request("paper-t2i-64", backend="kuberay"))).status == "ok"
    found = one(gpus.present(Request("paper-t2i-64")))
    assert found.status == "fail"
    assert "preset paper-t2i-64 trains on GPUs and torch sees none" in found.what


def test_a_driver_without_gpus_and_a_gpu_in_use_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpus_of(monkeypatch, 0, 0)
    driver = tmp_path / "version"
    driver.write_text("NVRM version")
    monkeypatch.setattr(gpus, "DRIVER", driver)
    assert "a driver is there and torch sees no GPU" in one(gpus.present(Request("demo"))).what
    gpus_of(monkeypatch, 2, 80, free=0.5)
    assert statuses(gpus.present(Request("demo"))) == ["ok", "warn"]


@pytest.mark.parametrize(
    ("count", "largest", "own", "status", "said"),
    [
        (8, 8, 8, "ok", "micro-batches of up to 8 fit into 80 GiB"),
        (8, 4, 8, "fail", "samples of 8 at a time do not fit; micro-batches of up to 4 fit"),
        (8, None, 8, "fail", "a step does not fit into 80 GiB on 8 GPUs"),
        (
            3,
            8,
            8,
            "warn",
            "the preset has 8 workers and this machine 3 GPUs; with 2, micro-batches of up to 8",
        ),
    ],
)
def test_memory_is_held_against_the_plan(
    monkeypatch: pytest.MonkeyPatch, count: int, largest: int | None, own: int, status: str, said: str
) -> None:
    blocks = f"training.losses.matching_block={own}"
    settings = with_overrides(
        section("openmoji-64", "base"), ["workers=8", blocks, f"training.schedule.micro_batch_size={own}"]
    )
    batch = settings.training.schedule.batch_size
    assert batch % 8 == 0
    assert batch % 3 != 0
    asked = []

    def planned(settings: Any, frozen: Any, counts: tuple[int, ...], assumed: Any) -> dict[str, Any]:
        asked.append((counts, assumed.gpu_memory))
        layout = {"fits": largest is not None, "time": {"micro_batch": largest}}
        return {"plans": [{"replicated": layout, "sharded": layout}]}

    gpus_of(monkeypatch, count, 80)
    monkeypatch.setattr(Request, "trainings", lambda self: {"base": settings})
    monkeypatch.setattr(plan_commands, "planned", planned)
    found = one(gpus.fits(Request("openmoji-64")))
    assert (found.status, found.name) == (status, "gpu memory, base")
    assert found.what.startswith(said)
    assert asked == [((8 if count == 8 else 2,), 80.0)]
    assert one(gpus.fits(Request("openmoji-64", plan=False))).what == "not counted, as --no-plan says"


@pytest.mark.slow
def test_a_real_plan_knows_a_gpu_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus_of(monkeypatch, 1, 80)
    assert one(gpus.fits(Request("openmoji-64"))).status == "ok"
    gpus_of(monkeypatch, 1, 0.4)
    tight = one(gpus.fits(Request("openmoji-64")))
    assert tight.status == "fail"
    assert "gigagan plan --preset openmoji-64 --part base --gpus 1" in tight.mend


def test_processes_that_agree_on_a_sum_and_some_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(gpus.talk("gloo", 1)) == []
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found = one(gpus.talk("gloo", 2))
    assert (found.status, found.what) == ("fail", "a sum over 2 processes failed: no word")
    assert "NCCL_DEBUG=INFO" in found.mend


@pytest.mark.slow
def test_two_real_processes_agree_on_a_sum() -> None:
    found = one(gpus.talk("gloo", 2))
    assert found.status == "ok", found
    assert found.what.startswith("2 processes agree on a sum, 4 MiB in ")
