"""The page of a shard set: whole, true to the tables, and safe with strangers' captions."""

from __future__ import annotations

import errno
import io
import itertools
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from gigagan_core.cli.app import app
from gigagan_core.data.histograms import Histogram
from gigagan_core.data.report import data_report
from gigagan_core.data.scores import SCORER, VERSION, score_field
from gigagan_core.data.shards import Shard, read_index, write_shard

from .importing import picture, run, write_files

ROWS = 40
HOSTILE = "<script>alert('x')</script>\x1b[31m\u202e\"><img src=http://evil.example/p.png>"


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (value, value, value)).save(out, "PNG")
    return out.getvalue()


def make_shard(folder: Path, number: int, **columns: object) -> Shard:
    """40 rows: the first 2 never fetched, the next 3 rejected, the fifth's picture is broken; scores rise by row."""
    keys = [f"{number}{row:04d}" for row in range(ROWS)]
    tar_path = folder / f"source-{number}.tar"
    with tarfile.open(tar_path, "w") as tar:
        for row, key in enumerate(keys[2:], start=2):
            content = b"broken" if row == 5 else png(row)
            member = tarfile.TarInfo(f"{key}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    scores = [None, None, *(number + row / ROWS for row in range(2, ROWS))]
    values = {
        "key": pa.array(keys),
        "caption": pa.array([HOSTILE, *[f"caption number {key}" for key in keys[1:]]]),
        "status": pa.array(["http_404"] * 2 + ["success"] * (ROWS - 2)),
        "selected": pa.array([False] * 5 + [True] * (ROWS - 5)),
        "rejected_by": pa.array([None] * 2 + ["aesthetic_v2_too_low"] * 3 + [None] * (ROWS - 5), pa.string()),
        "original_width": pa.array([None] * 2 + [300] * (ROWS - 2), pa.int32()),
        "original_height": pa.array([None] * 2 + [200 + row for row in range(2, ROWS)], pa.int32()),
        "watermark": pa.nulls(ROWS, pa.float64()),
        **columns,
    }
    fields = [pa.field(name, column.type) for name, column in values.items()]
    fields.append(score_field("aesthetic_v2", {SCORER: "aesthetic_v2", VERSION: "21dd590f3ccdc646"}))
    arrays = [*values.values(), pa.array(scores, pa.float32())]
    return write_shard(folder, number, tar_path, pa.Table.from_arrays(arrays, schema=pa.schema(fields)))


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    return [make_shard(tmp_path, number) for number in range(2)]


def test_every_row_is_counted_once_by_its_reason(shards: list[Shard]) -> None:
    page = data_report(shards, "A set")
    assert "70 of 80 rows are selected, in 2" in page
    bars = re.findall(
        r'class="label[^>]*>([^<]+)</div>.*?class="value[^>]*>(.*?) <span>(.*?)</span>', page, re.DOTALL
    )
    assert bars == [
        ("selected", "70", "87.50%"),
        ("aesthetic v2 too low", "6", "7.50%"),
        ("http 404", "4", "5.00%"),
    ]


def test_without_scores_pictures_of_what_is_selected_are_shown(shards: list[Shard]) -> None:
    for shard in shards:
        pq.write_table(pq.read_table(shard.parquet).drop_columns(["aesthetic_v2"]), shard.parquet)
    page = data_report(shards, "A set")
    assert "<h2>Samples</h2>" in page
    assert "decile 1" not in page
    keys = re.findall(r"caption number (\d+)</figcaption>", page)
    assert len(keys) == len(set(keys)) == 24
    assert all(int(key[1:]) >= 5 for key in keys), "none that is not selected"
    assert {key[0] for key in keys} == {"0", "1"}


def test_scores_name_their_scorer_and_an_empty_column_is_no_chart(shards: list[Shard]) -> None:
    page = data_report(shards, "A set")
    assert "scorer 21dd590f3ccd; median" in page
    assert "4 rows have none" in page
    assert "watermark" not in page
    assert "Shorter side, pixels" in page
    assert "Words in a caption" in page


def test_every_decile_shows_its_own_samples_and_what_left_says_why(shards: list[Shard]) -> None:
    page = data_report(shards, "A set")
    deciles = page.split('<div class="decile">')[1:]
    assert len(deciles) == 10
    keys = [[int(key) for key in re.findall(r"caption number (\d+)</figcaption>", part)] for part in deciles]
    # scores rise with the key, so no decile may hold a key of a higher one
    assert all(max(low) < min(high) for low, high in itertools.pairwise(keys))
    assert all(2 <= len(some) <= 8 for some in keys)
    assert 'class="left"' in deciles[0]
    assert "<strong>aesthetic v2 too low</strong>" in deciles[0]
    assert "unreadable" in deciles[0]
    # the lowest scores of each shard are the first and the sixth tenth, and a tenth is shown whole
    assert [part.count('class="left"') for part in deciles] == [3, 0, 0, 0, 0, 3, 0, 0, 0, 0]


def test_a_stranger_s_caption_stays_text_and_the_page_asks_for_nothing(tmp_path: Path) -> None:
    captions = pa.array([HOSTILE] * ROWS)
    page = data_report(
        [make_shard(tmp_path, 0, caption=captions)], HOSTILE, notes={"attribution": HOSTILE, "rows": {}}
    )
    assert "&lt;script&gt;alert" in page
    assert "<script" not in page
    assert "<img src=http" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_same_set_gives_the_same_page(tmp_path: Path) -> None:
    shards = [make_shard(tmp_path, number) for number in range(4)]
    assert data_report(shards, "A set", seed=1) == data_report(shards, "A set", seed=1)
    assert data_report(shards, "A set", seed=1) != data_report(shards, "A set", seed=2)


def test_a_set_fresh_from_ingest_has_a_page_too(make_shard_set: Callable[..., Path]) -> None:
    page = data_report(read_index(make_shard_set(statuses={3: "timeout"})), "Fresh")
    assert "8 of 9 rows are selected" in page
    assert "No row of this set has a score" in page


def test_of_a_large_set_samples_come_from_sixteen_shards(tmp_path: Path, monkeypatch) -> None:
    shards = [make_shard(tmp_path, number) for number in range(20)]
    opened = set()
    from gigagan_core.data import report

    original = report.pictures_of
    monkeypatch.setattr(report, "pictures_of", lambda shard, keys: opened.add(shard) or original(shard, keys))
    page = data_report(shards, "Large")
    assert 0 < len(opened) <= 16
    assert f"from {len(opened)} of the 20 shards" in page


def test_a_histogram_counts_every_finite_value_once() -> None:
    values = np.array([1, 2, 2, 3, np.nan, 100], np.float32)
    kept = np.array([1, 1, 0, 1, 1, 0], bool)
    histogram = Histogram.of(values, kept, whole=True)
    assert histogram.everything.sum() + histogram.above == 5
    assert histogram.kept.sum() == 3
    assert Histogram.of(np.array([np.nan]), np.array([True])) is None
    flat = Histogram.of(np.full(4, 0.5), np.ones(4, bool))
    assert flat.everything.sum() == 4


def test_a_long_tail_is_cut_off_and_counted() -> None:
    values = np.concatenate([np.arange(1, 1000), [100_000]]).astype(np.float32)
    histogram = Histogram.of(values, np.ones(1000, bool), whole=True)
    assert histogram.edges[-1] < 1100
    assert histogram.above + histogram.everything.sum() == 1000
    assert histogram.above >= 1
    assert 'aria-label="&lt;b&gt;"' in histogram.svg("<b>")


def test_a_page_that_cannot_be_written_is_one_sentence_and_the_one_before_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(write_files(tmp_path / "in", {"a/b.png": picture(0, "PNG")}), tmp_path / "store")
    command = ["data", "report", "--store", str(tmp_path / "store"), "--out"]
    (tmp_path / "folder").mkdir()
    done = CliRunner().invoke(app, [*command, str(tmp_path / "folder")])
    assert done.exit_code == 1
    assert re.search(
        r"error: report .*/folder cannot be written \(Is a directory\); make room, or", done.stderr
    )
    page = tmp_path / "page.html"
    assert CliRunner().invoke(app, [*command, str(page)]).exit_code == 0
    before = page.read_bytes()

    def write_half(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text[:9].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write_half)
    done = CliRunner().invoke(app, [*command, str(page)])
    assert done.exit_code == 1
    assert "page.html cannot be written (No space left on device)" in done.stderr
    assert page.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "in", "page.html", "store"]
