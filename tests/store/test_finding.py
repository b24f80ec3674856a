"""Finding artifacts among ten thousand: one listing, and no manifest read that is not asked for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gigagan_core import stages
from gigagan_core.errors import GigaganError
from gigagan_core.stages import partitions, scoring
from gigagan_core.store.artifact import KIND_OF_STAGE, STAGES, Artifact
from gigagan_core.store.store import Store, open_store

Make = Callable[..., Artifact]


@pytest.fixture
def asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the store's disk is asked for: listings by folder, documents by name below the root."""
    seen: list[str] = []
    folders, cat_file = store.folders, store.fs.cat_file

    def listing(relative: str) -> list[str]:
        seen.append(f"list {relative}")
        return folders(relative)

    def reading(path: str, *args: object, **options: object) -> bytes:
        seen.append(str(Path(path).relative_to(store.root)))
        return cat_file(path, *args, **options)

    monkeypatch.setattr(store._names, "_listing", listing)
    monkeypatch.setattr(store, "folders", listing)
    monkeypatch.setattr(store.fs, "cat_file", reading)
    return seen


def test_a_stage_is_listed_once_however_many_are_asked_for(
    store: Store, make: Make, asked: list[str]
) -> None:
    there = make("download", "partition")
    asked.clear()
    for number in range(20):
        assert store.find("download", f"{number:064x}") is None
    assert store.find("download", there.fingerprint) == there
    assert asked.count("list download") == 0, "it was listed when the partition was committed"
    # Each one that is missing: manifest and accepted name. The one that is there: a later attempt, and itself.
    assert len(asked) == 20 * 2 + 2


def test_what_another_process_commits_after_the_listing_is_found(store: Store, make: Make) -> None:
    assert store.find("download", "0" * 64) is None
    other = open_store(store.uri)
    first = make("download", "partition", into=other)
    assert store.find("download", first.fingerprint) == first
    second = make("download", "partition", into=other)
    assert (second.attempt, store.find("download", first.fingerprint)) == (2, second)


def test_the_newest_attempt_that_is_left_is_found(store: Store, make: Make) -> None:
    first, second = make("ingest", "shard-set"), make("ingest", "shard-set")
    assert store.find("ingest", first.fingerprint) == second
    shutil.rmtree(second.uri)
    assert store.find("ingest", first.fingerprint) == first
    third = make("ingest", "shard-set")
    assert third.attempt == 2
    shutil.rmtree(first.uri)
    assert open_store(store.uri).find("ingest", first.fingerprint) == third


def test_who_looks_for_a_model_reads_no_partition(store: Store, make: Make, asked: list[str]) -> None:
    make("download", "partition")
    model = make("train-base", "base-model")
    asked.clear()
    assert store.resolve("latest", ("base-model",)) == model
    assert store.resolve(model.fingerprint[:8], ("base-model",)) == model
    assert [name for name in asked if name.startswith("download/")] == []
    with pytest.raises(GigaganError, match="has no encoder"):
        store.resolve("latest", ("encoder",), what="encoder")
    assert [name for name in asked if name.startswith("download/")] == []


def test_an_attempt_is_named_behind_a_dot(store: Store, make: Make) -> None:
    first, second = make("ingest", "shard-set"), make("ingest", "shard-set")
    assert store.resolve(first.fingerprint[:8], ("shard-set",)) == second
    assert store.resolve(f"{first.fingerprint[:8]}.1", ("shard-set",)) == first
    assert store.resolve(f"{first.fingerprint[:8]}.2", ()) == second
    with pytest.raises(GigaganError, match="has no shard set"):
        store.resolve(f"{first.fingerprint[:8]}.3", ("shard-set",), what="shard set")


def test_an_object_store_gives_many_manifests_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store("memory://bucket/many")
    made = [make("ingest", "shard-set", settings={"seed": seed}, into=store) for seed in range(3)]
    store.fs.pipe_file(f"/bucket/many/ingest/{'0' * 64}/file", b"")
    asked: list[int] = []
    cat = store.fs.cat
    monkeypatch.setattr(
        store.fs, "cat", lambda paths, **options: (asked.append(len(paths)), cat(paths, **options))[1]
    )
    assert store.artifacts() == made
    assert asked == [4]


def test_the_stages_that_are_passed_by_make_nothing_else() -> None:
    specs = (partitions.SPEC, scoring.spec_of("aesthetic_v2"), scoring.spec_of(scoring.EMBEDDING))
    assert {spec.name: spec.kind for spec in specs} == KIND_OF_STAGE


def test_every_stage_of_the_package_is_known_to_the_store() -> None:
    sources = [path.read_text() for path in Path(stages.__file__).parent.glob("*.py")]
    assert {name for text in sources for name in re.findall(r'StageSpec\(\s*"([^"]+)"', text)} == STAGES
