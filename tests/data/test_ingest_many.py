"""A folder of many small partitions: what is there is found without looking at all the rest again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gigagan_core.config.ingest import FetchSettings, IngestSettings
from gigagan_core.data import download
from gigagan_core.data.fetch import Fetched
from gigagan_core.store.store import Store

from .helpers import fates, rows_of, run_ingest


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that were asked for, in a web where every URL is a picture of its own."""
    urls_asked: list[str] = []

    async def fetch_all(
        urls: Sequence[tuple[int, str]], settings: FetchSettings, handle: Callable[[Fetched], object]
    ) -> None:
        for row, url in urls:
            urls_asked.append(url)
            number, body = int(url.rpartition("/")[2]), io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(body, "PNG")
            sha256 = hashlib.sha256(body.getvalue()).hexdigest()
            await handle(Fetched(row, url, "success", body.getvalue(), sha256, None, 1))

    monkeypatch.setattr(download, "fetch_all", fetch_all)
    return urls_asked


@pytest.fixture
def manifests_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    load = Store._load

    def noted(self: Store, relative: str) -> object:
        read.append(relative)
        return load(self, relative)

    monkeypatch.setattr(Store, "_load", noted)
    return read


def add_table(folder: Path, number: int) -> str:
    """A table of two rows, of which the filter leaves one; returns its URL."""
    url = f"http://a.example/{number}"
    rows = {"url": [url, f"file:///{number}"], "caption": [f"picture {number}", "no web"]}
    pq.write_table(pa.table(rows), folder / f"part-{number:05d}.parquet")
    return url


def state(store: Path) -> dict[str, tuple[int, int]]:
    """Every file as (inode, time of writing); a manifest without the time, which says when it was last used."""
    return {
        str(path): (path.stat().st_ino, 0 if path.name == "manifest.json" else path.stat().st_mtime_ns)
        for path in store.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("count", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_partitions_are_fetched_once_each_and_a_rerun_does_nothing(
    count: int, asked: list[str], manifests_read: list[str], tmp_path: Path
) -> None:
    folder, store = tmp_path / "tables", tmp_path / "store"
    folder.mkdir()
    urls = [add_table(folder, number) for number in range(count)]
    settings = IngestSettings(image_size=16, encode_format="png", ray_tasks=False)

    made = run_ingest(folder, settings, store)
    assert sorted(asked) == sorted(urls)
    assert made.manifest["counts"] == {"in": 2 * count, "out": count, "rejected": {"not_http": count}}
    assert [row["url"] for row in rows_of(made) if row["status"] == "success"] == urls, (
        "in the order of names"
    )
    assert len(fates(made)) == 2 * count
    assert len(list(store.glob("download/*/manifest.json"))) == count
    assert len(manifests_read) < 8 * count, "a partition does not read the manifests of all the others"

    asked.clear()
    before = state(store)
    assert run_ingest(folder, settings, store) == made
    assert state(store) == before, "not a file was written"

    manifests_read.clear()
    stricter = settings.model_copy(
        update={"rules": settings.rules.model_copy(update={"min_caption_words": 3})}
    )
    with pytest.raises(Exception, match="none of"):
        run_ingest(folder, stricter, store)
    assert len(manifests_read) < 8 * count
    assert not asked, "other rules fetch nothing"

    new = add_table(folder, count)
    more = run_ingest(folder, settings, store)
    assert asked == [new]
    assert fates(more) == {**fates(more), **fates(made)}
    assert more.manifest["counts"]["out"] == count + 1
    assert len(list(store.glob("download/*/manifest.json"))) == count + 1
