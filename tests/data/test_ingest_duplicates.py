"""Duplicates over all partitions of an ingest, after fetching."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gigagan_core.config.ingest import IngestSettings
from gigagan_core.data import openmoji

from .helpers import rows_of, run_ingest, table_of

MakeSettings = Callable[..., IngestSettings]


def test_equal_pictures_under_two_urls_are_kept_once(
    good_urls: list[str], ingest_settings: MakeSettings, tmp_path: Path
) -> None:
    tables = [
        table_of(tmp_path / "in", [good_urls[0], good_urls[1], good_urls[1]]),
        table_of(tmp_path / "in", [good_urls[0], f"{good_urls[0]}?again", good_urls[2]]),
    ]
    artifact = run_ingest(tables, ingest_settings(), tmp_path / "store")
    assert [row["status"] for row in rows_of(artifact)] == [
        *("success", "success", "duplicate_url"),
        *("duplicate_url", "duplicate_bytes", "success"),
    ]


def coyo_table(path: Path, rows: list[tuple[str, str, str | None]]) -> Path:
    """(URL, caption, image_phash) in COYO's columns."""
    urls, captions, hashes = zip(*rows, strict=True)
    sizes = {"width": [160] * len(rows), "height": [160] * len(rows)}
    scores = dict.fromkeys(("clip_similarity_vitb32", "watermark_score"), [0.5] * len(rows))
    table = {"url": urls, "text": captions, "image_phash": pa.array(hashes, pa.string()), **sizes, **scores}
    pq.write_table(pa.table(table), path)
    return path


def test_coyos_hash_and_caption_are_kept_once_over_partitions_and_a_dead_first_one_takes_no_other(
    good_urls: list[str], ingest_settings: MakeSettings, tmp_path: Path
) -> None:
    dead = f"http://{openmoji.HOST}/160/none.png"
    tables = [
        coyo_table(tmp_path / "0.parquet", [(good_urls[0], "a cat", "aa"), (dead, "a dog", "bb")]),
        coyo_table(
            tmp_path / "1.parquet",
            [
                (good_urls[1], "a cat", "aa"),
                (good_urls[2], "another cat", "aa"),
                (good_urls[3], "a dog", "bb"),
                (good_urls[4], "a cat", None),
            ],
        ),
    ]
    artifact = run_ingest(tables, ingest_settings(), tmp_path / "store")
    assert [row["status"] for row in rows_of(artifact)] == [
        *("success", "http_404"),
        *("duplicate_picture_in_table", "success", "success", "success"),
    ]
