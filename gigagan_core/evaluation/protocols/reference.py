"""The real images of a protocol: a folder that an asset unpacked to, or the pictures of a shard set as files."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigagan_core import console
from gigagan_core.data.pictures import LOST, read_bytes, read_samples
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.baselines import sample as drawn
from gigagan_core.evaluation.extraction import writing
from gigagan_core.evaluation.picture_folder import Picture
from gigagan_core.store.fingerprint import sha256_file

_INDEX = "index.json"


@dataclass(frozen=True)
class DataSet:
    """pictures and captions of a shard set, aligned. lost: pictures whose bytes are not there."""

    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]
    lost: int


def unpack(shard_set: Any, work: Path, most: int | None = None, seed: int = 0) -> DataSet:
    """The selected pictures of a shard set as files below `work`, their bytes unchanged; done once for each set.

    Done again where a file is gone or has other bytes. shard_set: an artifact. most: only so many of them, drawn by
    seed. Raises GigaganError where it has none.
    """
    part = "" if most is None else f"-{most}-{seed}"
    folder = work / "reference" / f"{str(shard_set.output_digest)[:32]}{part}"
    return _unpacked(folder) or _write_files(shard_set, folder, most, seed)


def _unpacked(folder: Path) -> DataSet | None:
    """What an earlier evaluation left, None where it is not there whole."""
    try:
        document = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        known = _data_set(folder, document)
        if any((folder / name).stat().st_size != size for name, _, _, size in document["pictures"]):
            return None
        # judging refuses a picture of another sum, and would again at every later run
        with ThreadPoolExecutor() as pool:
            sums = pool.map(lambda picture: sha256_file(Path(picture.path)), known.pictures)
            whole = all(found == picture.sha256 for found, picture in zip(sums, known.pictures, strict=True))
        return known if whole else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _data_set(folder: Path, document: dict[str, Any]) -> DataSet:
    rows = document["pictures"]
    pictures = tuple(Picture(name, str(folder / name), sha256) for name, sha256, _, _ in rows)
    return DataSet(pictures, tuple(caption for _, _, caption, _ in rows), document["lost"])


def _write_files(shard_set: Any, folder: Path, most: int | None, seed: int) -> DataSet:
    with writing(folder, "real images"):
        folder.mkdir(parents=True, exist_ok=True)
    samples, rows, lost = read_samples(shard_set), [], 0
    count = min(most or len(samples), len(samples))
    with console.progress("real images", total=count, unit="images") as bar:
        for position in drawn(count, len(samples), seed).tolist():
            bar.advance(1)
            sample = samples[position]
            if sample.size == LOST:
                lost += 1
                continue
            data = read_bytes(sample)
            name = f"{position:08}.image"
            with writing(folder, "real images"):
                (folder / name).write_bytes(data)
            rows.append([name, hashlib.sha256(data).hexdigest(), sample.caption, len(data)])
    if not rows:
        raise GigaganError(
            f"shard set {shard_set.short} has no picture to judge by; select more or ingest more"
        )
    temporary = folder / f".{_INDEX}.{os.getpid()}"
    document = {"pictures": rows, "lost": lost}
    with writing(folder, "real images"):
        temporary.write_text(json.dumps(document), encoding="utf-8")
        os.replace(temporary, folder / _INDEX)
    return _data_set(folder, document)
