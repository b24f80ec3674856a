"""Copies of a remote store's artifacts on this machine: whole or not there, whoever else fetches them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gigagan_core.store import cache
from gigagan_core.store.artifact import MANIFEST, Artifact
from gigagan_core.store.store import open_store

Make = Callable[..., Artifact]


@pytest.fixture
def remote(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Artifact:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    return make("train-base", "base-model", into=open_store("memory://bucket/cache"))


def copies(artifact: Artifact) -> list[str]:
    return [path.name for path in cache._cached(artifact).parent.iterdir()]


def test_who_fetches_slower_leaves_the_copy_of_who_was_faster(
    remote: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = open_store("memory://bucket/cache").fs
    get_file, faster = fs.get_file, []

    def overtaken(source: str, target: str) -> None:
        get_file(source, target)
        if not faster:
            faster.append(0)
            folder = cache.local_folder(remote)
            faster[0] = (folder / "file.bin").stat().st_ino

    monkeypatch.setattr(fs, "get_file", overtaken)
    folder = cache.local_folder(remote)
    assert (folder / "file.bin").stat().st_ino == faster[0], "it may be read already"
    assert copies(remote) == [remote.output_digest]


def test_a_copy_that_lost_its_manifest_is_fetched_anew(remote: Artifact) -> None:
    (cache.local_folder(remote) / MANIFEST).unlink()
    assert (cache.local_folder(remote) / MANIFEST).is_file()
    assert (remote.path / "file.bin").read_bytes() == b"weights"
    cache.drop(remote)
    cache.drop(remote)
    assert copies(remote) == []


def test_a_fetch_that_fails_leaves_nothing(remote: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = open_store("memory://bucket/cache").fs

    def away(source: str, target: str) -> None:
        Path(target).write_bytes(b"half")
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "get_file", away)
        with pytest.raises(ConnectionError):
            cache.local_folder(remote)
    assert copies(remote) == []
    assert (remote.path / "file.bin").read_bytes() == b"weights"
