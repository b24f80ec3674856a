"""A small published set, a site with many faults, and shard sets made by hand."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from gigagan_core.config.ingest import IngestSettings
from gigagan_core.data import openmoji
from gigagan_core.data.download import partition_schema
from gigagan_core.data.faults import FaultTable
from gigagan_core.data.openmoji import PublishedSet
from gigagan_core.data.shards import write_index, write_shard
from gigagan_core.data.site import OpenMojiSite

# Enough of every fault that 54 URLs meet each of them.
MANY_FAULTS = FaultTable(
    permanent={
        "not_found": 0.04,
        "reset": 0.04,
        "stall": 0.03,
        "truncated": 0.04,
        "html": 0.06,
        "opt_out": 0.06,
    },
    transient={"reset": 0.05, "stall": 0.04, "truncated": 0.05, "unavailable": 0.05},
)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedSet:
    """60 drawings in two training tables and a held-out one."""
    return openmoji.publish(tmp_path_factory.mktemp("published"), limit=60, partitions=2)


@pytest.fixture(scope="module")
def site() -> Iterator[OpenMojiSite]:
    with OpenMojiSite(faults=MANY_FAULTS) as opened:
        yield opened


@pytest.fixture(scope="module")
def good_urls(site: OpenMojiSite) -> list[str]:
    """URLs that meet no fault."""
    return [row.url for row in openmoji.split() if site.faults.fault(row.url, 0) is None][:40]


@pytest.fixture(scope="module")
def ingest_settings(site: OpenMojiSite) -> Callable[..., IngestSettings]:
    """Settings for the site: fetched in this process, with short patience."""

    def make(fetch: dict | None = None, **changes: object) -> IngestSettings:
        patience = {
            "timeout_s": 1.5,
            "retries": 1,
            "backoff_s": 0.1,
            "concurrency": 8,
            "max_failed_share": 0.9,
        }
        settings = {"image_size": 32, "encode_format": "png", "ray_tasks": False, **changes}
        return IngestSettings(fetch={"hosts": site.hosts, **patience, **(fetch or {})}, **settings)

    return make


def numbered_png(number: int, size: int) -> bytes:
    """Noise that only `number` decides; red says the number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    pixels[..., 0] = number
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def make_shard_set(tmp_path: Path) -> Callable[..., Path]:
    """Writes a shard set of small pictures whose first pixel is their number."""

    def make(
        rows: Sequence[int] = (5, 4),
        size: int = 16,
        statuses: dict[int, str] | None = None,
        name: str = "set",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        shards, number = [], 0
        for index, count in enumerate(rows):
            tar_path, table = tmp_path / f"{name}-{index}.tar", []
            with tarfile.open(tar_path, "w") as tar:
                for _ in range(count):
                    status = (statuses or {}).get(number, "success")
                    key = f"k{number:04d}"
                    if status == "success":
                        _add(tar, f"{key}.png", numbered_png(number, size))
                        _add(tar, f"{key}.txt", f"caption {number}".encode())
                        _add(tar, f"{key}.json", json.dumps({"key": key}).encode())
                    table.append(
                        {
                            **dict.fromkeys(partition_schema().names),
                            "key": key,
                            "caption": f"caption {number}",
                            "status": status,
                            "selected": status == "success",
                        }
                    )
                    number += 1
            rows_table = pa.Table.from_pylist(table, partition_schema())
            shards.append(write_shard(folder, index, tar_path, rows_table))
        write_index(folder, shards)
        return folder

    return make


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
