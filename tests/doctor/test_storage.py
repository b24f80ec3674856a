"""The store and the weight files, each thing broken on purpose."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import namedtuple
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from gigagan_core.assets.catalogue import asset
from gigagan_core.assets.folder import AssetFolder
from gigagan_core.doctor import estimate, storage, weights
from gigagan_core.doctor.finding import Finding
from gigagan_core.doctor.request import Request

from .conftest import one, statuses

Usage = namedtuple("Usage", "total used free")


def of_lpips(found: Iterable[Finding]) -> Finding:
    return one(each for each in found if each.name == "weights lpips-vgg")


def test_a_store_is_probed_and_left_as_it_was(tmp_path: Path) -> None:
    store = tmp_path / "store"
    found = list(storage.probed(Request(store=str(store))))
    assert statuses(found) == ["ok", "ok"]
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_a_store_that_cannot_be_made_is_one_finding() -> None:
    found = one(storage.probed(Request(store="/dev/null/store")))
    assert found.status == "fail"
    assert "cannot be created" in found.what


def test_a_store_that_takes_nothing_or_gives_back_other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from gigagan_core.store.store import Store

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_note", refuse)
        found = one(storage.probed(Request(store="memory://bucket/readonly")))
        assert found.status == "fail"
        assert "does not let us write, read and remove: PermissionError" in found.what
    monkeypatch.setattr(Store, "read_note", lambda self, place: {"probe": "another"})
    found = one(storage.probed(Request(store="memory://bucket/garbled")))
    assert "does not give back what was written" in found.what


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir(mode=0o500)
    assert one(storage.probed(Request(store=str(folder)))).status == "fail"


@pytest.mark.parametrize(("skew", "status"), [(0.1, "ok"), (-30.0, "warn"), (1200.0, "fail")])
def test_the_clock_against_the_stores(skew: float, status: str) -> None:
    assert one(storage.clock(skew)).status == status


@pytest.mark.parametrize(("share", "status"), [(0.5, "fail"), (1.5, "warn"), (3.0, "ok")])
def test_the_disk_against_what_the_preset_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: float, status: str
) -> None:
    monkeypatch.setattr(estimate, "estimate", lambda request: 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, int(share * 10**9)))
    found = one(storage.room(Request(store=str(tmp_path / "not" / "yet" / "there"))))
    assert found.status == status
    assert "demo writes about 1.0 GB" in found.what


def test_larger_presets_need_more_room(tmp_path: Path) -> None:
    small, large = (estimate.estimate(Request(name)) for name in ("tiny", "openmoji"))
    assert 0 < small < large
    model_alone = estimate.estimate(Request("openmoji-64"))
    assert 50e6 < model_alone < large


def test_the_files_of_a_preset_are_named_by_its_losses() -> None:
    assert Request("demo").assets() == []
    assert Request("paper-upsampler-64-to-512").assets() == ["lpips-vgg"]


def test_the_encoder_that_a_model_is_usually_trained_with_is_missed_and_may_be_another(
    tmp_path: Path,
) -> None:
    found = list(weights.weights(Request("paper-t2i-64"), AssetFolder(tmp_path)))
    assert [(each.status, each.name) for each in found] == [
        ("warn", "weights clip-vit-l14"),
        ("warn", "weights clip-vit-b32"),
    ]
    assert "or name another file with --encoder" in found[0].mend
    own = one(weights.weights(Request("openmoji-64"), AssetFolder(tmp_path)))
    assert own.what == "openmoji-64 needs no file from outside"


def test_missing_and_wrong_weights_are_told_apart(tmp_path: Path) -> None:
    request, folder = Request("paper-upsampler-64-to-512"), AssetFolder(tmp_path)
    missing = of_lpips(weights.weights(request, folder))
    assert (missing.status, missing.mend) == ("fail", "gigagan assets fetch lpips-vgg")
    each = asset("lpips-vgg")
    content = b"not the weights"
    folder.file(each).write_bytes(content)
    folder.keep(each, {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)})
    wrong = of_lpips(weights.weights(request, folder))
    assert wrong.status == "fail"
    assert (
        f"has sha256 {hashlib.sha256(content).hexdigest()} and the catalogue's is {each.sha256}" in wrong.what
    )


def test_right_weights_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    content = b"weights"
    right = dataclasses.replace(asset("lpips-vgg"), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(weights, "asset", lambda name: right if name == right.name else asset(name))
    folder = AssetFolder(tmp_path)
    folder.file(right).write_bytes(content)
    folder.keep(right, {"sha256": right.sha256, "size": len(content)})
    assert of_lpips(weights.weights(Request("paper-upsampler-64-to-512"), folder)).status == "ok"
