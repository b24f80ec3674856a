"""What `gigagan store gc` removes, and all that it spares."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.store import garbage, leases, pins, removal, runs
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.runs import RunRecord
from gigagan_core.store.store import Store, open_store
from gigagan_core.tracking import process as process_module

Make = Callable[..., Artifact]
MONTH = timedelta(days=30)


def gc(store: Store, older_than: timedelta = MONTH, **options) -> garbage.Plan:
    return garbage.collect(store, garbage.plan(store, older_than, **options), older_than)


def names(artifacts: list[Artifact]) -> set[tuple[str, str]]:
    return {(each.stage, each.fingerprint) for each in artifacts}


def record(store: Store, number: int, *artifacts: Artifact, status: str = "finished") -> RunRecord:
    made = RunRecord(
        id=f"{number:032x}",
        flow="pipeline",
        created=f"2026-01-{number:02d}T00:00:00.000000+00:00",
        process="",
        settings={},
        status=status,
        artifacts={each.stage: each.reference() for each in artifacts},
    )
    runs.write(store, made)
    return made


def test_what_nothing_refers_to_goes_and_its_bytes_are_counted(store: Store, make: Make) -> None:
    orphan = make("train-base", "base-model", days_old=40, content=b"x" * 5000)
    gone = gc(store)
    assert names(gone.remove) == names([orphan])
    assert store.artifacts() == []
    assert store.find("train-base", orphan.fingerprint) is None
    assert 5000 < gone.bytes < 8000
    assert not Path(store.uri, "_trash").exists()


def test_planning_changes_nothing(store: Store, make: Make) -> None:
    make("train-base", "base-model", days_old=40)
    before = sorted(Path(store.uri).rglob("*"))
    assert len(garbage.plan(store, MONTH).remove) == 1
    assert sorted(Path(store.uri).rglob("*")) == before


def test_a_runs_artifacts_stay_with_all_they_were_made_of(store: Store, make: Make) -> None:
    partition = make("download", "partition", days_old=90)
    shards = make(
        "ingest", "shard-set", notes={"partitions": [partition.fingerprint]}, days_old=90, content=b"shards"
    )
    model = make("train-base", "base-model", {"data": [[shards, 0.5]]}, days_old=80)
    superseded = make("ingest", "shard-set", settings={"image_size": 64}, days_old=90)
    record(store, 1, model)
    gone = gc(store)
    assert names(gone.remove) == names([superseded])
    assert names(store.artifacts()) == names([partition, shards, model])


def test_the_newest_runs_keep_their_artifacts_and_older_records_go(store: Store, make: Make) -> None:
    shared = make("ingest", "shard-set", days_old=90)
    old = make("train-base", "base-model", {"data": shared}, {"seed": 1}, days_old=80)
    new = make("train-base", "base-model", {"data": shared}, {"seed": 2}, days_old=70)
    first, second = record(store, 1, old), record(store, 2, new)
    assert gc(store).remove == []
    gone = gc(store, keep_runs=1)
    assert names(gone.remove) == names([old])
    assert [each.id for each in runs.records(store)] == [second.id]
    assert first.id not in {each.id for each in runs.records(store)}
    assert names(store.artifacts()) == names([shared, new])


def test_a_running_run_is_never_one_too_many(store: Store, make: Make) -> None:
    old = make("train-base", "base-model", days_old=80)
    record(store, 1, old, status="running")
    assert gc(store, keep_runs=0).remove == []


def test_what_is_new_or_was_used_again_stays(store: Store, make: Make) -> None:
    make("train-base", "base-model", settings={"seed": 1}, days_old=29)
    reused = make("train-base", "base-model", settings={"seed": 2}, days_old=90)
    unused = make("train-base", "base-model", settings={"seed": 3}, days_old=90)
    assert store.touch(reused)
    assert names(gc(store).remove) == names([unused])


def test_a_pin_keeps_an_artifact_and_unpinning_frees_it(store: Store, make: Make) -> None:
    shards = make("ingest", "shard-set", days_old=90)
    model = make("train-base", "base-model", {"data": shards}, days_old=90)
    pins.pin(store, model, "for the paper")
    assert gc(store).remove == []
    assert pins.unpin(store, model)
    assert not pins.unpin(store, model)
    assert names(gc(store).remove) == names([shards, model])


def test_what_the_registry_wants_stays(store: Store, make: Make) -> None:
    model = make("train-base", "base-model", days_old=90)
    found = garbage.plan(store, MONTH, wanted=lambda each: "version 3" if each.kind == "base-model" else None)
    assert found.remove == []
    assert list(found.reasons.values()) == ["version 3"]
    assert names(found.keep) == names([model])


def test_the_inputs_of_running_work_stay(store: Store, make: Make) -> None:
    shards = make("ingest", "shard-set", days_old=90)
    with store.work("f" * 64, uses=[shards]):
        other = open_store(store.uri)
        assert gc(other).remove == []
        assert Path(store.uri, "_work", "f" * 64).is_dir()
    assert names(garbage.plan(store, MONTH).keep) == names([shards]), "the work can be continued"


def test_what_running_work_has_made_so_far_stays_though_nothing_names_it_yet(
    store: Store, make: Make
) -> None:
    """An ingest of three hours and its partitions, which its own end will name."""
    hour = timedelta(hours=1)
    before = make("download", "partition", settings={"start": 0}, days_old=4 / 24)
    partition = make("download", "partition", settings={"start": 1}, days_old=2 / 24)
    with store.work("f" * 64):
        os.utime(store.scratch() / f"{'f' * 64}.lock", (time.time() - 3 * 3600,) * 2)
        found = garbage.plan(open_store(store.uri), hour)
        assert names(found.remove) == names([before])
        assert list(found.reasons.values()) == ["made or used since the oldest running work was begun"]
    assert names(gc(store, hour).remove) == names([partition, before]), "it has ended"


@pytest.mark.parametrize(
    ("process", "begun_days_ago", "stays"),
    [("here", 2, True), ("here", 50, True), ("elsewhere:1:2", 2, True), ("elsewhere:1:2", 50, False)],
)
def test_what_a_running_run_has_made_between_its_stages_stays(
    store: Store, make: Make, process: str, begun_days_ago: int, stays: bool
) -> None:
    scores = make("score", "scores", days_old=1)
    begun = datetime.now(UTC) - timedelta(days=begun_days_ago)
    owner = process_module.owner() if process == "here" else process
    run = RunRecord("ab" * 16, "pipeline", begun.isoformat(), owner, {})
    runs.write(store, run)
    assert names(gc(store, timedelta(hours=1)).remove) == (set() if stays else names([scores]))
    runs.write(store, run.closed("failed"))
    assert names(gc(store, timedelta(hours=1)).remove) == (names([scores]) if stays else set())


def test_work_that_was_cut_off_long_ago_goes_with_what_it_used(store: Store, make: Make) -> None:
    shards = make("ingest", "shard-set", days_old=90)
    with store.work("f" * 64, uses=[shards]) as folder:
        (folder / "checkpoint").write_bytes(b"x" * 1000)
    leftover = store.scratch() / "tmpabc"
    leftover.mkdir()
    for path in (folder / "checkpoint", folder, leftover):
        os.utime(path, (0, 0))
    gone = gc(store)
    assert names(gone.remove) == names([shards])
    assert sorted(path.name for path in gone.work) == ["f" * 64, "tmpabc"]
    assert gone.bytes > 1000
    assert list(store.scratch().iterdir()) == []


def test_a_lock_file_that_was_swept_away_holds_nobody(store: Store) -> None:
    with store.work("f" * 64):
        pass
    store.discard_work("f" * 64)
    store.working.sweep(0.0)
    assert list(store.scratch().iterdir()) == []
    with store.work("f" * 64):
        (work,) = open_store(store.uri).working.begun()
        assert work.running


def test_a_lock_file_that_is_swept_away_between_opening_and_locking_is_made_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []
    lock = leases._try_lock

    def swept(file: object) -> bool:
        monkeypatch.setattr(leases, "_try_lock", lock)
        (store.scratch() / f"{'f' * 64}.lock").unlink()
        return lock(file)

    monkeypatch.setattr(leases, "_try_lock", swept)
    with store.work("f" * 64, on_wait=waits.append):
        (work,) = open_store(store.uri).working.begun()
        assert work.running, "nobody else can have the lease"
    assert waits == []


@pytest.fixture
def as_on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It emulates flock by byte-range locks, and gives an exclusive one on a file open for writing alone."""
    flock = fcntl.flock

    def emulated(file: IO[str], kind: int) -> None:
        if kind & fcntl.LOCK_EX and not file.writable():
            raise OSError(9, "Bad file descriptor")
        flock(file, kind)

    monkeypatch.setattr(leases.fcntl, "flock", emulated)


@pytest.mark.usefixtures("as_on_nfs")
@pytest.mark.parametrize("may_write", [True, False])
def test_leases_are_told_on_nfs_also_where_one_may_only_read(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch, may_write: bool
) -> None:
    free = make("train-base", "base-model", settings={"seed": 1}, days_old=90)
    held = make("train-base", "base-model", settings={"seed": 2}, days_old=90)
    with store.work("f" * 64, uses=[held]):
        if not may_write:
            # The tests may run as root, who has every right.
            monkeypatch.setattr(leases, "open", for_reading_only, raising=False)
        other = open_store(store.uri)
        assert [work.fingerprint for work in other.working.begun() if work.running] == ["f" * 64]
        assert names(garbage.unused(other)) == names([free])
        with other.working.not_leased("f" * 64) as is_free:
            assert not is_free
        with other.working.not_leased(free.fingerprint) as is_free:
            assert is_free


def for_reading_only(path: Path, mode: str = "r", **options: str) -> IO[str]:
    if mode != "r":
        raise PermissionError(13, "Permission denied")
    return open(path, mode, **options)


def test_a_lock_file_that_may_not_be_read_is_one_sentence(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path, *_: str, **__: str) -> IO[str]:
        raise PermissionError(13, "Permission denied")

    with store.work("f" * 64):
        pass
    monkeypatch.setattr(leases, "open", closed, raising=False)
    with pytest.raises(GigaganError, match=r"f\.lock does not tell whether somebody works there: Permission"):
        garbage.unused(store)


def test_what_is_found_at_the_moment_of_its_removal_stays(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("train-base", "base-model", days_old=90)
    rename = os.rename

    def found_in_between(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        assert store.touch(model)
        rename(source, target)

    plan = garbage.plan(store, MONTH)
    monkeypatch.setattr(os, "rename", found_in_between)
    assert garbage.collect(store, plan, MONTH).remove == []
    assert store.find("train-base", model.fingerprint) == model


def test_what_another_collection_has_removed_already_is_passed_by(store: Store, make: Make) -> None:
    make("train-base", "base-model", settings={"seed": 1}, days_old=90)
    make("train-base", "base-model", settings={"seed": 2}, days_old=90)
    plan = garbage.plan(store, MONTH)
    assert len(gc(open_store(store.uri)).remove) == 2
    assert garbage.collect(store, plan, MONTH).remove == []


def test_a_file_shared_by_links_is_freed_with_its_last_name(store: Store, make: Make, tmp_path: Path) -> None:
    tar = tmp_path / "tar"
    tar.write_bytes(b"x" * 100_000)
    partition = make("download", "partition", content=tar, days_old=90)
    shards = make(
        "ingest", "shard-set", notes={"partitions": [partition.fingerprint]}, content=tar, days_old=90
    )
    tar.unlink()
    stays = make("ingest", "shard-set", settings={"min_side": 1}, content=Path(shards.uri, "file.bin"))
    assert garbage.plan(store, MONTH).bytes < 50_000
    assert gc(store).bytes < 50_000
    assert (stays.path / "file.bin").stat().st_size == 100_000


CUT_OFF = """
import os, shutil, signal, sys
from datetime import timedelta
from gigagan_core.store import garbage
from gigagan_core.store.store import open_store
store, calls = open_store(sys.argv[1]), 0
def killed(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
os.rename, os.unlink = killed(os.rename), killed(os.unlink)
month = timedelta(days=30)
garbage.collect(store, garbage.plan(store, month), month)
print("whole")
"""


def test_a_collection_that_is_killed_anywhere_has_lost_nothing_that_is_kept(
    store: Store, make: Make, tmp_path: Path
) -> None:
    shards = make("ingest", "shard-set", days_old=90)
    kept = make("train-base", "base-model", {"data": shards}, days_old=90)
    record(store, 1, kept)
    base = make("ingest", "shard-set", settings={"seed": 1}, days_old=91)
    make("train-base", "base-model", {"data": base}, days_old=90)
    for kill_at in (1, 2, 3, 4, 5):
        copy = tmp_path / f"copy {kill_at}"
        shutil.copytree(store.uri, copy)
        done = subprocess.run(
            [sys.executable, "-c", CUT_OFF, str(copy), str(kill_at)], capture_output=True, text=True
        )
        assert done.returncode == -9, (kill_at, done.stdout, done.stderr)
        left = open_store(str(copy))
        found = left.artifacts()
        assert names([shards, kept]) <= names(found)
        for each in found:
            assert (Path(each.uri) / "file.bin").read_bytes() == b"weights"
        gc(left)
        assert names(left.artifacts()) == names([shards, kept])
        assert not Path(left.uri, "_trash").exists()


def test_an_accepted_fingerprint_goes_with_its_artifact(store: Store, make: Make) -> None:
    model = make("train-base", "base-model", days_old=90)
    store.accept(model, "a" * 64, "code")
    assert store.find("train-base", "a" * 64) is not None
    os.utime(Path(model.uri) / "manifest.json", (0, 0))
    gc(store)
    assert store.find("train-base", "a" * 64) is None
    assert not list(Path(store.uri, "_accepted").rglob("*.json"))


def test_a_remote_store_loses_the_manifest_first_and_needs_a_day_of_grace(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    store = open_store("memory://bucket/garbage")
    model = make("train-base", "base-model", into=store)
    with pytest.raises(GigaganError, match="give --older-than 1d or more"):
        garbage.plan(store, timedelta(hours=1))
    assert garbage.plan(store, timedelta(days=1)).remove == []
    later = time.time() + 40 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    removed: list[str] = []
    rm_file = store.fs.rm_file
    monkeypatch.setattr(store.fs, "rm_file", lambda path: (removed.append(path), rm_file(path))[1])
    gone = gc(store)
    assert names(gone.remove) == names([model])
    assert gone.bytes == 7
    assert removed[0].endswith("manifest.json")
    assert store.artifacts() == []
    assert not [name for name in store.fs.find("/bucket/garbage") if "train-base" in name]


def test_a_remote_commit_that_was_cut_off_is_swept_when_it_is_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_store("memory://bucket/cut")
    place = f"ingest/{'abc1' * 16}.2"
    store.fs.pipe_file(f"/bucket/cut/{place}/00000.tar", b"half")
    assert garbage.plan(store, timedelta(days=1)).leftovers == []
    later = time.time() + 2 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    assert gc(store, timedelta(days=1)).leftovers == [place]
    assert store.fs.find("/bucket/cut/ingest") == []


@pytest.mark.parametrize("uri", ["local", "memory://bucket/others"])
def test_what_others_keep_beside_a_stores_folders_is_no_leftover(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str
) -> None:
    """The store's own folder among them: it was opened one folder too high."""
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    parent = open_store(str(tmp_path / "data") if uri == "local" else uri)
    make("ingest", "shard-set", into=open_store(f"{parent.uri}/store"))
    others = ["mlartifacts/gigagan/model", f"blobs/{'a' * 64}/part", "ingest/notes/words", "lost+found/0/x"]
    for place in others:
        parent.fs.makedirs(f"{parent.root}/{place.rpartition('/')[0]}", exist_ok=True)
        parent.fs.pipe_file(f"{parent.root}/{place}", b"theirs")
    before = parent.fs.find(parent.root)
    later = time.time() + 40 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    gone = gc(parent)
    assert (gone.leftovers, gone.remove, gone.work) == ([], [], [])
    assert parent.fs.find(parent.root) == before
    assert len(before) > len(others)


def test_unused_is_what_no_artifact_run_or_pin_names(store: Store, make: Make) -> None:
    shards = make("ingest", "shard-set")
    model = make("train-base", "base-model", {"data": shards})
    assert names(garbage.unused(store)) == names([model])
    pins.pin(store, model)
    assert garbage.unused(store) == []


def test_a_held_lease_keeps_the_artifact_of_its_fingerprint(store: Store, make: Make) -> None:
    model = make("train-base", "base-model", days_old=90)
    with store.work(model.fingerprint):
        other = open_store(store.uri)
        assert not removal.remove(other, model, time.time())
    assert removal.remove(store, model, time.time() - 86400)
