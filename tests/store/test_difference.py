"""What differs between two artifacts, and what an artifact was made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.store import runs
from gigagan_core.store.artifact import Artifact, ExternalFile
from gigagan_core.store.difference import Difference, decisive, differences
from gigagan_core.store.lineage import Key, Lineage
from gigagan_core.store.runs import RunRecord
from gigagan_core.store.store import Store

Make = Callable[..., Artifact]


def test_settings_inputs_and_modules_are_named_with_both_values(make: Make) -> None:
    table = ExternalFile("a.parquet", "1" * 64)
    other = ExternalFile("b.parquet", "2" * 64)
    one = make("ingest", "shard-set", {"metadata": table}, {"rules": {"min_side": 1}}, {"a": "1", "b": "1"})
    two = make(
        "ingest", "shard-set", {"metadata": other}, {"rules": {"min_side": 2}}, {"a": "1", "b": "2", "c": "1"}
    )
    assert decisive(one.manifest, two.manifest) == [
        Difference("setting", "rules.min_side", "1", "2"),
        Difference("input", "metadata", f"a.parquet {'1' * 12}", f"b.parquet {'2' * 12}"),
        Difference("code", "b", "1", "2"),
        Difference("code", "c", "-", "1"),
    ]
    assert [str(each) for each in decisive(one.manifest, two.manifest)] == [
        "setting rules.min_side 1 -> 2",
        f"input metadata a.parquet {'1' * 12} -> b.parquet {'2' * 12}",
        "code b changed",
        "code c is new",
    ]


def test_of_many_tables_the_new_ones_are_named(make: Make) -> None:
    tables = [ExternalFile(f"{name}.parquet", name * 64) for name in "abcdef"]
    one = make("ingest", "shard-set", {"metadata": tables[:2]})
    two = make("ingest", "shard-set", {"metadata": tables})
    (found,) = decisive(one.manifest, two.manifest)
    shown = ", ".join(f"{name}.parquet {name * 12}" for name in "cde")
    assert (found.before, found.after) == ("-", f"{shown} and 1 more")
    turned = make("ingest", "shard-set", {"metadata": tables[1::-1]})
    (found,) = decisive(one.manifest, turned.manifest)
    assert found.before == "one order or weighting"


def test_equal_artifacts_differ_in_nothing_and_attempts_in_their_number(make: Make) -> None:
    one, two = make("ingest", "shard-set"), make("ingest", "shard-set")
    assert differences(one.manifest, one.manifest) == []
    assert decisive(one.manifest, two.manifest) == []
    assert differences(one.manifest, two.manifest) == [Difference("attempt", "", "1", "2")]


def test_what_decides_nothing_is_a_difference_all_the_same(make: Make) -> None:
    one = make("ingest", "shard-set").manifest
    two = {**one, "settings": {"threads": 4}, "packages": {"torch": "2.1"}}
    assert decisive(one, two) == []
    assert differences(one, two) == [
        Difference("setting", "threads", "-", "4"),
        Difference("package", "torch", "2.0", "2.1"),
    ]


def test_modules_of_an_older_manifest_are_not_guessed(make: Make) -> None:
    one = {**make("ingest", "shard-set").manifest, "code_modules": ["a"]}
    two = make("ingest", "shard-set", code={"a": "2"}).manifest
    assert [each.name for each in decisive(one, two)] == ["(which module is not recorded)"]


def test_lineage_goes_up_and_down_through_mixtures_and_partitions(make: Make) -> None:
    partition = make("download", "partition")
    shards = make("ingest", "shard-set", notes={"partitions": [partition.fingerprint]})
    other = make("ingest", "shard-set", settings={"seed": 1})
    model = make("train-base", "base-model", {"data": [(shards, 0.5), (other, 0.5)]})
    lineage = Lineage([partition, shards, other, model])
    assert lineage.parents(model) == [("data", shards), ("data", other)]
    assert lineage.parents(shards) == [("partitions", partition)]
    assert lineage.children(partition) == [("partitions", shards)]
    assert lineage.children(other) == [("data", model)]
    assert lineage.reachable([model]) == {Key.of(each) for each in (partition, shards, other, model)}


def record(store: Store, number: int, name: str) -> RunRecord:
    made = RunRecord(
        id=f"{number:x}" * 32,
        flow="pipeline",
        created=f"2026-01-{number:02d}T00:00:00+00:00",
        process="elsewhere:1:1",
        settings={},
        prefect={"id": f"flow-{number}", "name": name},
    )
    runs.write(store, made)
    return made


def test_a_run_is_named_by_id_prefix_prefect_run_or_latest(store: Store) -> None:
    with pytest.raises(GigaganError, match="no record of a pipeline run; run `gigagan pipeline` first"):
        runs.find(store, "latest")
    first, second = record(store, 1, "amber-lynx"), record(store, 2, "blue-fox")
    assert runs.find(store, "latest") == second
    assert runs.find(store, first.id[:5]) == first
    assert runs.find(store, "amber-lynx") == first
    assert runs.find(store, "flow-2") == second
    with pytest.raises(GigaganError, match=r"no run 'amber'; .* \(newest: 222222222222 \(blue-fox\)"):
        runs.find(store, "amber")


def test_a_record_is_written_again_in_its_place(store: Store, make: Make) -> None:
    shards = make("ingest", "shard-set")
    begun = record(store, 1, "amber-lynx")
    runs.write(store, begun.with_artifact("train", shards.reference()).closed("finished"))
    (read,) = runs.records(store)
    assert (read.status, list(read.names())) == ("finished", [Key.of(shards)])
    assert read.ended is not None
