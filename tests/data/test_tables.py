"""Tables are read a piece at a time, and what is wrong with one is said in a sentence or counted by its reason."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from gigagan_core.config.ingest import IngestSettings, PartitionSettings
from gigagan_core.data import download, openmoji, tables
from gigagan_core.data.download import PartitionJob, _asked_before
from gigagan_core.data.schemas import TableSchema, adapt, detect
from gigagan_core.data.site import OpenMojiSite
from gigagan_core.data.tables import batches_before, find_tables, read_rows
from gigagan_core.errors import GigaganError

from .helpers import rows_of, run_ingest

MakeSettings = Callable[..., IngestSettings]


def write(path: Path, columns: dict, **options: object) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


# ---- a piece at a time -------------------------------------------------------------------------------


@pytest.mark.parametrize("row_group_size", [7, 40_000, 100_000])
@pytest.mark.parametrize(("start", "rows"), [(0, 3), (5, 20), (16_380, 10), (39_999, 30_001), (99_990, 10)])
def test_a_piece_is_the_rows_asked_for_however_the_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, row_group_size: int, start: int, rows: int
) -> None:
    path = tmp_path_factory.getbasetemp() / f"numbers-{row_group_size}.parquet"
    if not path.exists():
        write(path, {"n": pa.array(range(100_000))}, row_group_size=row_group_size)
    assert read_rows(str(path), start, rows)["n"].to_pylist() == list(range(start, start + rows))


def test_the_rows_before_one_are_those_of_its_row_group(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"n": list(range(101)), "other": ["x"] * 101}, row_group_size=80)

    def before(start: int) -> list[int]:
        batches = list(batches_before(str(path), start, ["n"]))
        assert all(batch.schema.names == ["n"] for batch in batches)
        return [number for batch in batches for number in batch["n"].to_pylist()]

    assert before(70) == list(range(70))
    assert before(95) == list(range(80, 95))
    assert before(80) == before(0) == []


JobAt = Callable[[pa.Table, int], tuple[pa.Table, TableSchema, PartitionJob]]


@pytest.fixture
def partition(tmp_path: Path) -> JobAt:
    """The canonical rows of a table from one on, its schema, and the job that has them."""

    def make(table: pa.Table, start: int) -> tuple[pa.Table, TableSchema, PartitionJob]:
        path = tmp_path / "t.parquet"
        pq.write_table(table, path, row_group_size=80)
        rows = len(table) - start
        job = PartitionJob(str(path), "ab" * 32, PartitionSettings.of(IngestSettings(), start, rows))
        schema = detect(tuple(table.column_names), "t")
        return adapt(read_rows(str(path), start, rows), schema, "ab" * 32, start, "t"), schema, job

    return make


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.binary(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_what_a_row_group_tells_of_earlier_rows(partition: JobAt, kind: pa.DataType) -> None:
    urls = [f"http://a.example/{number}" for number in range(60)]
    urls += [
        "http://a.example/3",
        "http://a.example/59",
        "http://a.example/70",
        None,
        "",
        "ftp://a.example/1",
    ]
    table = pa.table({"url": pa.array(urls).cast(kind), "caption": ["x"] * len(urls)})
    assert _asked_before(*partition(table, 60)) == {"http://a.example/3", "http://a.example/59"}


def test_an_earlier_row_that_is_refused_does_not_ask_and_a_later_one_of_its_url_does(
    partition: JobAt,
) -> None:
    same = "http://a.example/same"
    table = pa.table({"url": [same, same, same], "caption": [None, "x", "y"]})
    assert _asked_before(*partition(table, 1)) == set()
    assert _asked_before(*partition(table, 2)) == {same}


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many earlier rows were judged, batch by batch."""
    counts: list[int] = []

    def counted(rows: pa.Table, *rest: Any, **more: Any) -> pa.Table:
        counts.append(len(rows))
        return adapt(rows, *rest, **more)

    monkeypatch.setattr(download, "adapt", counted)
    return counts


def test_rows_without_a_url_are_not_looked_for(partition: JobAt, looked_at: list[int]) -> None:
    urls = ["", None, "ftp://a.example/1", "http://a.example/1"] * 10
    table = pa.table({"url": urls, "caption": ["x"] * 40})
    assert _asked_before(*partition(table, 36)) == {"http://a.example/1"}
    assert looked_at == [9]


def test_a_url_that_was_found_is_looked_for_no_more(
    partition: JobAt, looked_at: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 10)
    table = pa.table({"url": ["http://a.example/1"] * 50, "caption": ["x"] * 50})
    assert _asked_before(*partition(table, 45)) == {"http://a.example/1"}
    assert looked_at == [10]


def test_one_repeated_row_without_a_number_stops_no_run(partition: JobAt) -> None:
    urls = [f"http://a.example/{number}" for number in (1, 2, 3, 1)]
    sizes = ["wide", "100", "200", "300"]
    table = pa.table({"url": urls, "caption": ["x"] * 4, "width": sizes, "height": sizes})
    assert _asked_before(*partition(table, 2)) == {urls[0]}


_ARROW_PEAK = """
import sys
import pyarrow as pa
from gigagan_core.config.ingest import IngestSettings, PartitionSettings
from gigagan_core.data.download import PartitionJob, _asked_before
from gigagan_core.data.schemas import adapt, detect
from gigagan_core.data.tables import read_rows
piece = read_rows(sys.argv[1], 999_000, 1000)
schema = detect(tuple(piece.column_names), "t")
job = PartitionJob(sys.argv[1], "ab" * 32, PartitionSettings.of(IngestSettings(), 999_000, 1000))
_asked_before(adapt(piece, schema, "ab" * 32, 999_000, "t"), schema, job)
print(pa.default_memory_pool().max_memory() // 2**20)
"""


def test_memory_does_not_grow_with_a_row_group(tmp_path: Path) -> None:
    # Every other row has none, and such rows are not each other's earlier ones.
    urls = [
        f"http://host.example/pictures/{number:050d}.jpg" if number % 2 else "" for number in range(1_000_000)
    ]
    path = write(
        tmp_path / "t.parquet",
        {"url": urls, "caption": ["a caption" * 5] * 1_000_000},
        row_group_size=1_000_000,
    )
    done = subprocess.run(
        [sys.executable, "-c", _ARROW_PEAK, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 32, "the row group's texts alone are 80 MiB"


def test_a_url_in_two_partitions_of_one_table_is_asked_for_once(
    good_urls: list[str], ingest_settings: MakeSettings, site: OpenMojiSite, tmp_path: Path
) -> None:
    urls = [good_urls[0], good_urls[1], good_urls[0], good_urls[2], good_urls[1], good_urls[3]]
    # The first row with the second URL is refused by the filter, so the later one is asked for.
    captions = ["a", None, "b", "c", "d", "e"]
    table = write(tmp_path / "t.parquet", {"url": urls, "caption": captions})
    before = len(site.requests())
    artifact = run_ingest(table, ingest_settings(rows_per_partition=2), tmp_path / "store")
    asked = Counter(request["url"] for request in site.requests()[before:])
    assert asked == dict.fromkeys(good_urls[:4], 1)
    statuses = [row["status"] for row in rows_of(artifact)]
    assert statuses == ["success", "no_caption", "duplicate_url", "success", "success", "success"]


_TEN_MILLION = """
import json, resource, sys, time
from gigagan_core.config.ingest import FilterSettings
from gigagan_core.data.filter import filter_rows
from gigagan_core.data.schemas import adapt, detect
from gigagan_core.data.tables import find_tables, read_head, read_rows
from gigagan_core.stages.partitions import cut
started = time.monotonic()
(table,) = find_tables(sys.argv[1])
schema = detect(read_head(table.uri).columns, table.uri)
settings, kept, partitions = FilterSettings(preset="gigagan"), 0, cut([table], 100_000)
for part in partitions:
    rows = adapt(read_rows(table.uri, part.start, part.rows), schema, table.sha256, part.start, table.uri)
    reasons, _ = filter_rows(rows, settings, table.uri)
    kept += sum(reason is None for reason in reasons)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps({"schema": schema.name, "partitions": len(partitions), "kept": kept, "peak_mib": peak,
                  "seconds": time.monotonic() - started}))
"""


@pytest.mark.slow
def test_ten_million_rows_are_cut_and_filtered_within_two_gib(tmp_path: Path) -> None:
    path = tmp_path / "large.parquet"
    write_large_table(path, rows=10_000_000)
    done = subprocess.run(
        [sys.executable, "-c", _TEN_MILLION, str(path)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert (found["schema"], found["partitions"]) == ("laion2B-en-joined", 100)
    assert found["kept"] == 7_500_000, "every fourth row has a watermark"
    assert found["peak_mib"] < 2048


def write_large_table(path: Path, rows: int) -> None:
    """LAION's joined columns, in row groups of a million rows; every fourth row has a watermark."""
    import numpy as np
    import pyarrow.compute as pc

    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("URL", "TEXT")),
            *((name, pa.float64()) for name in ("WIDTH", "HEIGHT", "similarity")),
            ("hash", pa.int64()),
            *((name, pa.float32()) for name in ("punsafe", "pwatermark")),
        ]
    )
    size = 1_000_000
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, size):
            numbers = np.arange(first, first + size)
            texts = pa.array(numbers).cast(pa.string())
            hosts = pa.array(numbers % 5000).cast(pa.string())
            join = pc.binary_join_element_wise
            columns = {
                "URL": join("http://host", hosts, ".example/pictures/", texts, ".jpg", ""),
                "TEXT": join("A photograph of the number ", texts, " on a door in the street", ""),
                "WIDTH": np.where(numbers % 10 == 0, np.nan, 640.0),
                "HEIGHT": np.full(size, 480.0),
                "similarity": np.full(size, 0.3),
                "hash": numbers,
                "punsafe": np.zeros(size, np.float32),
                "pwatermark": np.where(numbers % 4 == 0, 0.9, 0.1).astype(np.float32),
            }
            writer.write_table(pa.table(columns, schema))


# ---- bad input ---------------------------------------------------------------------------------------


def test_strange_rows_are_kept_or_counted_by_their_reason(
    good_urls: list[str], ingest_settings: MakeSettings, site: OpenMojiSite, tmp_path: Path
) -> None:
    long = "a very long caption, " * 5000
    rows = [
        (good_urls[0], long, "success"),
        (None, "x", "no_url"),
        ("file:///etc/passwd", "x", "not_http"),
        ("ftp://a.example/x.png", "x", "not_http"),
        ("/relative.png", "x", "not_http"),
        ("http://127.0.0.1/x.png", "x", "private_address"),
        (f"  {good_urls[1]}\n", "spaces around it", "success"),
        (f"http://{openmoji.HOST}/160/two words.png", "x", "http_404"),
        (f"http://{openmoji.HOST}/160/é日本.png", "x", "http_404"),
        ("http://", "x", "invalid_url"),
        (good_urls[2], None, "no_caption"),
        (good_urls[3], " \t", "short_caption"),
    ]
    table = write(
        tmp_path / "t.parquet", {"url": [row[0] for row in rows], "caption": [row[1] for row in rows]}
    )
    before = len(site.requests())
    artifact = run_ingest(table, ingest_settings(), tmp_path / "store")
    assert [row["status"] for row in rows_of(artifact)] == [row[2] for row in rows]
    counts = artifact.manifest["counts"]
    assert (counts["in"], counts["out"]) == (12, 2)
    assert sum(counts["rejected"].values()) == 10
    assert len(site.requests()) == before + 4, "what the filter refuses is never asked for"
    with tarfile.open(artifact.path / "00000.tar") as tar:
        texts = {tar.extractfile(name).read().decode() for name in tar.getnames() if name.endswith(".txt")}
    assert texts == {long, "spaces around it"}


def test_a_table_damaged_in_the_middle_is_one_sentence_and_names_the_table(
    good_urls: list[str], ingest_settings: MakeSettings, tmp_path: Path
) -> None:
    path = write(tmp_path / "t.parquet", {"url": good_urls, "caption": good_urls}, compression="snappy")
    whole = path.read_bytes()
    # The footer is whole, so the damage is found when the rows are read.
    path.write_bytes(whole[:4] + b"\xff" * (len(whole) // 3) + whole[4 + len(whole) // 3 :])
    with pytest.raises(GigaganError, match=r"t\.parquet is not a whole parquet file .*copy it again"):
        run_ingest(path, ingest_settings(), tmp_path / "store")


def test_captions_that_are_numbers_stop_the_run_before_anything_is_asked_for(
    good_urls: list[str], ingest_settings: MakeSettings, site: OpenMojiSite, tmp_path: Path
) -> None:
    before = len(site.requests())
    table = write(tmp_path / "t.parquet", {"url": good_urls, "caption": list(range(len(good_urls)))})
    with pytest.raises(GigaganError, match=r"column 'caption' of type int64 cannot be read as caption"):
        run_ingest(table, ingest_settings(), tmp_path / "store")
    assert len(site.requests()) == before


def test_empty_tables_are_passed_over_beside_full_ones(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"url": pa.array([], pa.string()), "caption": pa.array([], pa.string())})
    write(tmp_path / "b.parquet", {"url": ["http://a.example/"], "caption": ["x"]})
    (found,) = find_tables(tmp_path)
    assert (Path(found.uri).name, found.rows) == ("b.parquet", 1)


def test_what_lies_beside_the_tables_and_is_not_taken_is_named(tmp_path: Path) -> None:
    columns = {"url": ["http://a.example/"], "caption": ["x"]}
    for name in ("a.parquet", "same.parquet"):
        write(tmp_path / name, columns)
    write(tmp_path / "D.PARQUET", {**columns, "caption": ["y"]})
    (tmp_path / "c.csv").write_text("url,caption\n")
    (tmp_path / "notes.md").write_text("no table")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "year=2020").mkdir()
    said: list[str] = []
    found = find_tables(tmp_path, said.append)
    assert [Path(table.uri).name for table in found] == ["D.PARQUET", "a.parquet"]
    assert said == [
        f"folder {tmp_path}: left out, since only its own *.parquet files are tables: 2 (c.csv, year=2020)",
        f"table {tmp_path}/same.parquet has the content of {tmp_path}/a.parquet and is left out",
    ]


def test_a_folder_that_an_object_store_lists_in_itself_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.parquet", {"url": ["http://a.example/"], "caption": ["x"]})
    real = LocalFileSystem.ls

    def ls(self: LocalFileSystem, path: str, detail: bool = False, **more: Any) -> list[Any]:
        return [{"name": f"{path}/", "type": "directory", "size": 0}, *real(self, path, detail, **more)]

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    said: list[str] = []
    assert len(find_tables(tmp_path, said.append)) == 1
    assert said == []


def test_an_ingest_says_what_it_leaves_out(
    good_urls: list[str], ingest_settings: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.parquet", {"url": good_urls[:1], "caption": ["x"]})
    (folder / "more.csv").write_text("url,caption\n")
    run_ingest(folder, ingest_settings(), tmp_path / "store")
    assert "1 (more.csv)" in " ".join("".join(capsys.readouterr()).split())


def test_a_plain_tables_sums_are_verified_and_its_sizes_are_filtered_by(
    good_urls: list[str], ingest_settings: MakeSettings, tmp_path: Path
) -> None:
    columns = {"url": good_urls[:3], "caption": ["x", "y", "z"]}
    known = {"sha256": [None, "0" * 64, None], "width": [99, 99, 9], "height": [99, 99, 99]}
    settings = ingest_settings(filter={"min_side": 32})
    rows = rows_of(run_ingest(write(tmp_path / "t.parquet", columns | known), settings, tmp_path / "store"))
    assert [row["status"] for row in rows] == ["success", "sha256_mismatch", "small_in_table"]


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ("", "metadata '' is no place; name a parquet file or a folder"),
        ("s3:/bucket/tables", r"metadata s3:/bucket/tables has no // behind s3:; write s3://bucket/tables"),
    ],
)
def test_a_place_that_is_mistyped_is_one_sentence(metadata: str, sentence: str) -> None:
    with pytest.raises(GigaganError, match=sentence):
        find_tables(metadata)
