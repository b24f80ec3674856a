"""One partition, from rows of a table to a tar and a parquet of every row: what one Ray task does.

The files have img2dataset's names and layout: ``00000.tar`` (key.png, key.txt, key.json; pictures only),
``00000.parquet`` (every row with its status) and ``00000_stats.json``. They are written beside each other in
scratch and moved when they are whole, so a killed task leaves nothing that could be taken for a result.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import re
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigagan_core.config.ingest import PartitionSettings
from gigagan_core.data.columns import plain_array, texts
from gigagan_core.data.fetch import Fetched, fetch_all
from gigagan_core.data.filter import are_http, filter_rows
from gigagan_core.data.forget import KEPT_COLUMNS, Forgotten
from gigagan_core.data.hosts import spread_hosts
from gigagan_core.data.schemas import TableSchema, adapt, canonical_schema, detect
from gigagan_core.data.status import BLOCKED, FORGOTTEN, OPTED_OUT, SHA256_MISMATCH, SUCCESS
from gigagan_core.data.tables import batches_before, read_rows
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    import pyarrow as pa

SHARD = "00000"
PROGRESS_EVERY_SECONDS = 0.5
PROGRESS_FILE = "progress.json"
ANSWERED = (OPTED_OUT, BLOCKED, FORGOTTEN)


@dataclass(frozen=True)
class PartitionJob:
    """Which rows of which table; table_sha256: of its bytes, part of every key. block_list: see `IngestSettings`.

    forgotten: what `gigagan store forget` was asked for; no part of a fingerprint.
    """

    table_uri: str
    table_sha256: str
    settings: PartitionSettings
    block_list: str | None = None
    forgotten: Forgotten = field(default_factory=Forgotten)

    @property
    def name(self) -> str:
        """Short, for a person: the file's name and the first row."""
        first = f" from row {self.settings.start}" if self.settings.start else ""
        return f"{self.table_uri.rstrip('/').rpartition('/')[2]}{first}"


@dataclass
class PartitionResult:
    """What became of a partition's rows.

    rows = success + sum(filtered) + sum(failed). filtered: never asked for, by reason. failed: asked for in
    vain, by reason. missing: rows without a value, by the column a rule looked at. seconds: wall time.
    """

    rows: int = 0
    success: int = 0
    filtered: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    missing: dict[str, int] = field(default_factory=dict)
    schema: str = ""
    seconds: float = 0.0
    pid: int = field(default_factory=os.getpid)

    @property
    def done(self) -> int:
        """Rows whose fate is known."""
        return self.success + sum(self.filtered.values()) + sum(self.failed.values())

    @property
    def failed_share(self) -> float:
        """Of the URLs asked for; what was answered and is not wanted is no failure."""
        failed = sum(n for reason, n in self.failed.items() if reason not in ANSWERED)
        asked = self.success + self.failed.total()
        return failed / asked if asked else 0.0

    def as_json(self) -> dict[str, Any]:
        """JSON-able; `from_json` reads it."""
        return {**vars(self), "filtered": dict(self.filtered), "failed": dict(self.failed)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> PartitionResult:
        """The result that `as_json` wrote."""
        return cls(**{**values, **{name: Counter(values[name]) for name in ("filtered", "failed")}})


def download_partition(
    job: PartitionJob,
    scratch: Path,
    output: Path,
    on_progress: Callable[[PartitionResult], None] = lambda result: None,
    own_process: bool = False,
) -> PartitionResult:
    """Filter, fetch, resize and write one partition.

    scratch: for unfinished files. output: gets the three files, the statistics last. on_progress: called
    with the counts so far, a few times a second. own_process: see `make_resizer`.
    Raises GigaganError for a table that cannot be used, OSError where the disk is full.
    """
    started = time.time()
    settings = job.settings
    piece = read_rows(job.table_uri, settings.start, settings.rows)
    schema = detect(
        tuple(piece.column_names),
        job.table_uri,
        settings.table_schema,
        settings.url_column,
        settings.caption_column,
    )
    rows = adapt(piece, schema, job.table_sha256, settings.start, job.table_uri)
    reasons, missing = _filter(rows, job, _asked_before(rows, schema, job))
    result = PartitionResult(rows=len(rows), missing=missing, schema=schema.name)
    folder = scratch / f"attempt-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for row, url in enumerate(rows["url"].to_pylist()):
        if job.forgotten.names(url):
            reasons[row] = FORGOTTEN
    with _PartitionWriter(folder, rows.to_pylist(), job, result, own_process) as writer:
        for row, reason in enumerate(reasons):
            if reason is not None:
                writer.refuse(row, reason)
        urls = [(row, rows["url"][row].as_py()) for row, reason in enumerate(reasons) if reason is None]
        asyncio.run(_fetch_into(writer, spread_hosts(urls), settings, on_progress))
    assert result.done == result.rows, f"{job.name}: {result.done} of {result.rows} rows accounted for"
    result.seconds = time.time() - started
    _sort_parquet(folder / f"{SHARD}.parquet")
    (folder / f"{SHARD}_stats.json").write_text(json.dumps(_stats(result, started), indent=1))
    output.mkdir(parents=True, exist_ok=True)
    for ending in (".tar", ".parquet", "_stats.json"):
        os.replace(folder / f"{SHARD}{ending}", output / f"{SHARD}{ending}")
    shutil.rmtree(folder, ignore_errors=True)
    return result


def _pixels(body: bytes) -> float | None:
    """How many pixels a picture's header promises; None where Pillow finds no header."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(body)) as image:
                return image.width * image.height
    except Image.DecompressionBombError:
        return math.inf
    except Exception:  # Pillow's plug-ins raise whatever they meet in a damaged header
        return None


def read_block_list(place: str) -> frozenset[str]:
    """The sha256 sums (hex, one a line; empty lines and `#` comments apart) of a file or URI.

    Raises GigaganError where it cannot be read or a line is no sha256.
    """
    import fsspec

    try:
        with fsspec.open(place, "rt", encoding="utf-8") as file:
            lines = [line.split("#")[0].strip().lower() for line in file]
    except (OSError, ValueError) as error:
        raise GigaganError(f"block list {place} cannot be read: {error}; name a text file") from None
    sums = frozenset(line for line in lines if line)
    for line in sums:
        if not re.fullmatch("[0-9a-f]{64}", line):
            raise GigaganError(f"block list {place}: {line[:80]!r} is no sha256; give 64 hex digits a line")
    return sums


def _filter(
    rows: pa.Table, job: PartitionJob, asked_before: Collection[str] = ()
) -> tuple[list[str | None], dict[str, int]]:
    settings = job.settings
    return filter_rows(
        rows, settings.filter, job.table_uri, settings.fetch.allow_private_addresses, asked_before
    )


def _asked_before(rows: pa.Table, schema: TableSchema, job: PartitionJob) -> set[str]:
    """URLs of these rows that an earlier row of the same table asks for, as far as their row group tells.

    It is a function of the table alone, so partitions stay independent of each other. Of the rows before, one batch is
    in memory, and it is looked for each URL until that is found.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    urls = rows["url"].filter(are_http(rows["url"]))
    wanted, found = set(urls.unique().to_pylist()), set()
    columns = list(dict.fromkeys(schema.columns.values()))
    for batch in batches_before(job.table_uri, job.settings.start, columns):
        if not wanted:
            break
        look_for = pa.array(wanted, pa.string())
        is_wanted = pc.is_in(texts(plain_array(batch[schema.columns["url"]])), value_set=look_for)
        if not pc.any(is_wanted).as_py():
            continue
        # Taken without those that nobody wants: a few rows cannot tell what a column holds, hence not judged.
        few = pa.table({name: plain_array(batch[name]).filter(is_wanted) for name in columns})
        earlier = adapt(few, schema, job.table_sha256, 0, job.table_uri, judged=False)
        reasons, _ = _filter(earlier, job)
        asked = {
            url for url, reason in zip(earlier["url"].to_pylist(), reasons, strict=True) if reason is None
        }
        found |= asked
        wanted -= asked
    return found


def download_task(job: PartitionJob, scratch: str, output: str) -> dict[str, Any]:
    """`download_partition` in a worker process; progress goes to a file in scratch, the result is JSON-able."""
    progress = Path(scratch) / PROGRESS_FILE

    def write_progress(result: PartitionResult) -> None:
        temporary = progress.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(result.as_json()))
        os.replace(temporary, progress)

    result = download_partition(job, Path(scratch), Path(output), write_progress, own_process=True)
    return result.as_json()


def read_progress(scratch: Path) -> PartitionResult | None:
    """What a task has written of its progress, None before it has."""
    try:
        return PartitionResult.from_json(json.loads((scratch / PROGRESS_FILE).read_text()))
    except FileNotFoundError:
        return None


async def _fetch_into(
    writer: _PartitionWriter,
    urls: list[tuple[int, str]],
    settings: PartitionSettings,
    on_progress: Callable[[PartitionResult], None],
) -> None:
    loop = asyncio.get_running_loop()
    last_told = 0.0
    # One thread: the writer and the resizer's handling of file descriptors want one caller at a time.
    with ThreadPoolExecutor(1) as hands:

        async def handle(fetched: Fetched) -> None:
            nonlocal last_told
            await loop.run_in_executor(hands, writer.add, fetched)
            if time.monotonic() - last_told >= PROGRESS_EVERY_SECONDS:
                last_told = time.monotonic()
                on_progress(writer.result)

        on_progress(writer.result)
        await fetch_all(urls, settings.fetch, handle)
    on_progress(writer.result)


class _PartitionWriter:
    """img2dataset's sample writer, fed with final answers; counts into `result`."""

    def __init__(
        self,
        folder: Path,
        rows: list[dict[str, Any]],
        job: PartitionJob,
        result: PartitionResult,
        own_process: bool,
    ):
        from gigagan_core.data.img2dataset_parts import load, make_resizer

        settings = job.settings
        self.result = result
        self._rows = rows
        self._blocked = read_block_list(job.block_list) if job.block_list else frozenset()
        self._forgotten = job.forgotten
        self._verify = settings.fetch.verify_sha256
        self._max_pixels = settings.fetch.max_pixels
        self._resize = make_resizer(
            settings.image_size, settings.encode_format, settings.quality, own_process
        )
        self._writer = load().writer.WebDatasetSampleWriter(
            shard_id=0,
            output_folder=str(folder),
            save_caption=True,
            oom_shard_count=len(SHARD),
            schema=partition_schema(),
            encode_format=settings.encode_format,
        )
        # The same pictures make the same bytes: no time of day in the tar's headers.
        self._writer.tarwriter.mtime = 0

    def __enter__(self) -> _PartitionWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def refuse(self, row: int, reason: str) -> None:
        """A row that is not asked for."""
        self.result.filtered[reason] += 1
        self._write(row, reason)

    def add(self, fetched: Fetched) -> None:
        """A final answer: an image is resized and kept, anything else is recorded."""
        from gigagan_core.data.perceptual_hash import difference_hash

        known: dict[str, Any] = {"attempts": fetched.attempts, "sha256": fetched.sha256}
        status, message, image = fetched.status, fetched.message, None
        if fetched.body is not None:
            status, message = self._look_up(fetched)
        if status == SUCCESS:
            status, message = self._look_at_header(fetched.body)
        if status == SUCCESS:
            image, _, _, width, height, error = self._resize(io.BytesIO(fetched.body))
            if error is None:
                known |= {"original_width": width, "original_height": height}
                known["phash"] = difference_hash(image)
            else:
                status, message, image = "not_an_image", error, None
        if status == SUCCESS:
            self.result.success += 1
        else:
            self.result.failed[status] += 1
        self._write(fetched.row, status, image=image, error_message=message, **known)

    def _look_up(self, fetched: Fetched) -> tuple[str, str | None]:
        """The status that a body's sha256 gives it: what the table and the block list know of it."""
        promised = self._rows[fetched.row]["sha256"]
        if self._forgotten.names(None, fetched.sha256):
            return FORGOTTEN, None
        if self._verify and promised and promised.strip().lower() != fetched.sha256:
            return SHA256_MISMATCH, f"the table says {promised}"
        if fetched.sha256 in self._blocked:
            return BLOCKED, "its sha256 is on the block list"
        return SUCCESS, None

    def _look_at_header(self, body: bytes) -> tuple[str, str | None]:
        """Whether a body may be decoded. OpenCV reads formats that Pillow does not, of any size: they may not."""
        pixels = _pixels(body)
        if pixels is None:
            return "not_an_image", "no known header"
        if pixels > self._max_pixels:
            return "too_many_pixels", f"more than {self._max_pixels}"
        return SUCCESS, None

    def _write(self, row: int, status: str, image: bytes | None = None, **known: Any) -> None:
        values = self._rows[row]
        if status == FORGOTTEN:
            known = {}
            values = {name: values[name] for name in KEPT_COLUMNS if name in values} | {"caption": None}
        sample = {**dict.fromkeys(partition_schema().names), **values, "status": status, **known}
        sample["selected"] = status == SUCCESS
        self._writer.write(image, values["key"], values["caption"], sample)


def partition_schema() -> pa.Schema:
    """Columns of a partition's and a shard set's parquet: the canonical ones and what fetching found.

    width, height are the table's; original_width, original_height those of the picture as it was fetched.
    sha256: of the fetched bytes. phash: see `perceptual_hash`, of the picture as it is kept.
    """
    import pyarrow as pa

    found = [
        *((name, pa.string()) for name in ("status", "error_message")),
        *((name, pa.int32()) for name in ("original_width", "original_height", "attempts")),
        ("phash", pa.string()),
        ("selected", pa.bool_()),
    ]
    return pa.schema([*canonical_schema(), *(pa.field(*column) for column in found)])


def _sort_parquet(path: Path) -> None:
    """Rows in the order of the table; they were written as the answers came."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    pq.write_table(table.sort_by("key"), path)


def _stats(result: PartitionResult, started: float) -> dict[str, Any]:
    """What img2dataset writes of a shard, under its names, and what it does not count."""
    not_images = result.failed.get("not_an_image", 0)
    return {
        "count": result.rows,
        "successes": result.success,
        "failed_to_download": sum(result.failed.values()) - not_images,
        "failed_to_resize": not_images,
        "duration": result.seconds,
        "start_time": started,
        "end_time": started + result.seconds,
        "status_dict": {SUCCESS: result.success, **result.filtered, **result.failed},
        "filtered": sum(result.filtered.values()),
        "missing_values": result.missing,
    }
