"""Stores that are only read: they may belong to others, and a misspelt one is not made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.store import pins, runs
from gigagan_core.store import store as store_module
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.runs import RunRecord
from gigagan_core.store.store import Store, open_store

Make = Callable[..., Artifact]
RECORD = RunRecord(
    id="ab" * 16,
    flow="pipeline",
    created="2026-01-01T00:00:00+00:00",
    process="",
    settings={},
    status="finished",
)


@pytest.mark.parametrize("command", [["ls"], ["show", "latest"], ["diff", "latest", "latest"], ["runs"]])
def test_what_only_reads_needs_no_right_to_write(
    gigagan: Any, make: Make, store: Store, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    make("ingest", "shard-set")
    # The tests may run as root, who has every right.
    monkeypatch.setattr(store_module.os, "access", lambda path, mode: False)
    with pytest.raises(GigaganError, match="cannot be written; check its owner and rights"):
        open_store(store.uri)
    assert gigagan(*command, "--json").exit_code == 0


def test_a_store_that_is_not_there_is_one_sentence_and_is_not_made(gigagan: Any, tmp_path: Path) -> None:
    done = gigagan("ls", "--store", str(tmp_path / "shore"))
    assert done.exit_code == 1
    assert "shore does not exist; name the folder or URI of one with --store" in done.stderr
    assert not (tmp_path / "shore").exists()


def test_the_default_store_is_empty_until_something_is_made(
    gigagan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIGAGAN_STORE", str(tmp_path / "later"))
    done = gigagan("ls", "--json")
    assert (done.exit_code, done.stdout.strip()) == (0, "[]")
    assert not (tmp_path / "later").exists()


def test_a_kind_that_nothing_has_is_answered_with_those_there_are(gigagan: Any, make: Make) -> None:
    make("ingest", "shard-set")
    done = gigagan("ls", "--kind", "shardset")
    said = " ".join(done.stderr.split())
    assert "nothing of kind 'shardset' is in" in said
    assert "it has the stages ingest and the kinds shard-set" in said


@pytest.mark.parametrize("uri", ["s3:/bucket/store", "s3:bucket/store", "S3:/bucket/store"])
def test_a_uri_without_its_slashes_is_no_folder(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GigaganError, match=r"has no // behind [sS]3:; write s3://bucket/store, or \./"):
        open_store(uri)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_colon_in_its_name_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("./s3:store").is_local
    assert open_store("s3:store").is_local
    assert open_store("runs:today").is_local


def test_a_chain_of_file_systems_is_no_misspelt_uri() -> None:
    assert not Store("simplecache::memory://bucket/store").is_local


@pytest.mark.parametrize(
    "command", [["ls"], ["show", "latest"], ["gc", "--ignore-mlflow"], ["ls", "--unused"]]
)
def test_folders_of_others_beside_the_stages_are_not_entered(
    gigagan: Any, make: Make, store: Store, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """A store at the root of a volume, and another program's manifests below a folder that could be a stage's."""
    make("ingest", "shard-set")
    foreign = Path(store.uri, "plugins", "colours")
    foreign.mkdir(parents=True)
    (foreign / "manifest.json").write_text('{"name": "colours"}')
    Path(store.uri, "lost+found").mkdir()
    scandir = os.scandir

    def as_somebody(path: Any) -> Any:
        # The tests may run as root, who has every right.
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(store_module.os, "scandir", as_somebody)
    done = gigagan(*command, "--json")
    assert (done.exit_code, done.stderr) == (0, ""), done


@pytest.mark.parametrize("left", ["", "whole"])
def test_a_record_that_a_kill_left_half_written_is_none(
    gigagan: Any, make: Make, store: Store, left: str
) -> None:
    runs.write(store, RECORD)
    pins.pin(store, make("ingest", "shard-set"))
    for folder in (runs.FOLDER, pins.FOLDER):
        (written,) = Path(store.uri, folder).iterdir()
        written.with_name(f".{written.name}.123").write_text(left and written.read_text())
    assert [each.id for each in runs.records(store)] == [RECORD.id]
    assert len(pins.pins(store)) == 1
    for command in (["runs"], ["gc", "--ignore-mlflow"], ["ls", "--unused"], ["show", "latest"]):
        assert gigagan(*command, "--json").exit_code == 0, command


def test_a_record_that_cannot_be_written_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            runs.write(store, RECORD)
    assert list(Path(store.uri, runs.FOLDER).iterdir()) == []


def test_records_and_pins_of_a_newer_version_are_read(store: Store, make: Make) -> None:
    runs.write(store, RECORD)
    pins.pin(store, make("ingest", "shard-set"))
    for folder in (runs.FOLDER, pins.FOLDER):
        (written,) = Path(store.uri, folder).iterdir()
        written.write_text(json.dumps({**json.loads(written.read_text()), "colour": "blue"}))
    assert runs.records(store) == [RECORD]
    assert [pin.why for pin in pins.pins(store)] == [""]


def test_a_manifest_that_is_no_artifacts_is_one_sentence(store: Store) -> None:
    foreign = Path(store.uri, "blobs", "a" * 64)
    foreign.mkdir(parents=True)
    for written in ('{"name": "colours"}', "[]"):
        (foreign / "manifest.json").write_text(written)
        with pytest.raises(GigaganError, match=r"manifest\.json is no artifact's; move that folder out"):
            store.artifacts()
